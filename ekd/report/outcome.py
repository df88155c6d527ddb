"""What a sweep has come to, as a table for a person at a terminal."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape
from rich.table import Table

from ekd.outside import visible
from ekd.report.sweep import Lost, read_cells


def outcome(sweep: Path) -> tuple[Table, int]:
    """A line a cell, and how many of them failed."""
    view = Table(title=escape(visible(str(sweep))), title_justify="left")
    for column in ("cell", "held-out KL", "tokens learned from", "minutes"):
        view.add_column(column, justify="left" if column == "cell" else "right", overflow="fold")
    cells = read_cells(sweep)
    for cell in cells:
        name = visible(str(cell.folder.relative_to(sweep)))
        if isinstance(cell, Lost):
            why = (cell.why.splitlines() or ["it left no word"])[-1]  # brackets in it are no markup of ours
            view.add_row(escape(name), escape(visible(f"{cell.state}: {why}")), "", "", style="red")
        else:
            kl, train = cell.figures["after"]["val/kl"], cell.figures["train"]
            if (cell.folder / "failed.txt").exists():
                name += " (finished, but its page or logger failed: failed.txt)"
            view.add_row(escape(name), f"{kl:.4f}", f"{train['supervised_tokens']:,}", f"{cell.figures['minutes']:.1f}")
    # A run may be whole and its page or its logger fail: that is said, too.
    broken = [isinstance(cell, Lost) and cell.state != "unfinished" for cell in cells]
    return view, sum(bad or (cell.folder / "failed.txt").exists() for bad, cell in zip(broken, cells, strict=True))
