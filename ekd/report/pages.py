"""The two pages, of a sweep and of one run: from a folder to a file for a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING

from ekd.distill.fence import check_run
from ekd.outside import check_tree
from ekd.report.cell import Cell
from ekd.report.page import folder, open_line
from ekd.report.run_view import finished_cell, run_view
from ekd.report.sweep import Lost, planned, read_cells, read_sweep
from ekd.report.sweep_view import sweep_view

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ekd.data.cached import TraceData

HELD_OUT = 24  # solutions in the viewer of a run that says nothing of it
SECONDS = 10.0  # between two looks at a sweep that runs, and after which its open page loads itself anew


def sweep_page(path: Path, out: Path | None = None, *, again: int = 0) -> Path:
    """-> the page, PATH/report/index.html unless `out` names another folder. Raises ValueError as `sweep.read` does.

    again: seconds after which an open page loads itself anew; 0: never.
    """
    sweep = read_sweep(path)
    check_tree(path, ["report"])
    where = folder(out or path / "report", png=True)
    return where.render("sweep.html", again=again, **sweep_view(sweep, where))


def watch_sweep(path: Path, out: Path | None = None) -> Iterator[Path]:
    """The page, each time that a cell has finished or failed; the last one when none is left to wait for.

    A sweep whose multirun.yaml does not say what it asks for has no end that is known here.
    """
    if not path.is_dir():
        raise ValueError(f"sweep={path} is no folder yet: start the sweep first, or give hydra.sweep.dir=FOLDER")
    seen = None
    while True:
        found = read_cells(path)
        state = sorted(str(one.folder) for one in found if not isinstance(one, Lost) or one.state != "unfinished")
        over = 0 < len(planned(path)) <= len(state)
        if any(isinstance(one, Cell) for one in found) and (state != seen or over):
            seen = state
            yield sweep_page(path, out, again=0 if over else int(SECONDS))
        if over:
            return
        sleep(SECONDS)


def run_pages(
    run: Path, data: TraceData, model: PreTrainedModel | None, solutions: int | None, *, alone: bool
) -> list[str]:
    """Of a run that has just finished: its page, and its token viewer where that is wanted. -> how to open them.

    solutions: held-out ones in the viewer; None: a few, if the run is `alone` and no cell of a sweep.
    """
    from ekd.report.viewer.reading import run_viewer

    wanted = (HELD_OUT if alone else 0) if solutions is None else solutions
    viewer = []
    if wanted and model is not None:
        maker, keys = data.collector, data.traces(data.val_split).keys[:wanted]
        page = run_viewer(run, data.store, keys, maker.student_tokenizer, model, maker.dataset)
        viewer.append(f"viewer      {open_line(page)}")
    return [page_line(run), *viewer]


def page_line(run: Path) -> str:
    """Makes the page of a finished run. -> how to open it."""
    return f"page        {open_line(run_page(run))}"


def run_page(run: Path, out: Path | None = None) -> Path:
    """-> the page of one finished run, RUN/report/index.html unless `out` names another folder."""
    check_run(run)
    cell = finished_cell(run)
    where = folder(out or run / "report", png=False)
    return where.render("run.html", **run_view(cell, where))
