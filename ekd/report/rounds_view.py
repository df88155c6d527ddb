"""The rounds of one run, on its page: what the student wrote while it learned, from RUN/rounds.jsonl."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ekd.outside import check_plain
from ekd.report.cell import Cell
from ekd.report.page import Drawing, Folder
from ekd.report.plain import Table, Value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 24  # rounds in the table: of more, so many evenly spaced ones
Rounds = Sequence[dict[str, float]]
# heading, key of rounds.jsonl, what it is multiplied by, digits
COLUMNS = (
    ("after step", "step", 1, 0),
    ("texts", "texts", 1, 0),
    ("right, %", "accuracy", 100, 1),
    ("KL, nats", "kl", 1, 3),
    ("student entropy", "student_entropy", 1, 3),
    ("teacher entropy", "teacher_entropy", 1, 3),
    ("tokens", "tokens", 1, 1),
    ("cut off, %", "cut_off", 100, 1),
    ("repeated, %", "repeated", 100, 1),
    ("empty, %", "empty", 100, 1),
    ("left out", "left_out", 1, 0),
    ("writing, s", "seconds_writing", 1, 2),
    ("reading, s", "seconds_reading", 1, 2),
)
# title, and the lines of a panel: label, key, factor
PANELS = (
    ("KL(student, teacher), nats a token", [("KL", "kl", 1)]),
    ("entropy, nats a token", [("student", "student_entropy", 1), ("teacher", "teacher_entropy", 1)]),
    ("right, %", [("right", "accuracy", 100)]),
    ("tokens a text", [("tokens", "tokens", 1)]),
    ("share of the texts, %", [("cut off", "cut_off", 100), ("repeated", "repeated", 100), ("empty", "empty", 100)]),
)
NOTES = (
    "KL and the student's entropy are estimated from the tokens that it sampled (log q - log p, and -log q): exact on "
    "average where source.sampling.temperature=1 and top_p=1. Right: of the texts that could be graded."
)


def rounds(run: Path) -> list[dict[str, float]]:
    """One dict a round, whole lines only. Numbers alone: the file may be a stranger's."""
    file = run / "rounds.jsonl"
    check_plain(file)
    if not file.is_file():
        return []
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            told: Any = json.loads(line)
            kept = {str(key): float(value) for key, value in told.items()}
            found.append({**kept, "student_entropy": -kept.get("student_log_q", math.nan), "round": kept["round"]})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{file}, line {number} is no round: remove the line, or the file") from error
    return found


def rounds_view(cell: Cell, folder: Folder) -> tuple[Table, Drawing | None] | None:
    """The table and the figure; None for a run without rounds."""
    known = rounds(cell.folder)
    return (table(known, learning_seconds(cell.figures["train"])), drawing(known, folder)) if known else None


def learning_seconds(train: Mapping[str, float]) -> float:
    """Seconds of the steps alone: forward, backward, optimizer."""
    offered = train["supervised_tokens"] / max(train["selected"], 1e-9)
    return offered / max(train["tokens_per_second"], 1e-9)


def table(known: Rounds, steps: float) -> Table:
    """steps: seconds that learning took."""
    step = max(1, math.ceil((len(known) - 1) / (SHOWN - 1)))
    some = [*known[:-1:step], known[-1]]
    rows = [
        [
            Value(f"{one['round']:.0f}"),
            *(Value(shown(one.get(key), factor, digits)) for _, key, factor, digits in COLUMNS),
        ]
        for one in some
    ]
    spent = [*(sum(one.get(f"seconds_{name}", 0) for one in known) for name in ("writing", "reading")), steps]
    said = [f"{s:,.1f} s ({s / max(sum(spent), 1e-9):.0%})" for s in spent]
    notes = [NOTES, f"In all, writing took {said[0]}, the teacher's reading {said[1]} and learning {said[2]}."]
    notes += outcome_sentence(known)
    notes += [f"{len(some)} of {len(known)} rounds; RUN/rounds.jsonl has all."] if len(some) < len(known) else []
    return Table("rounds", "By round, before it is learned from", ["round", *(c[0] for c in COLUMNS)], rows, notes)


def outcome_sentence(known: Rounds) -> list[str]:
    """Whose token was written, by the verdict of its text, in a sentence; none where nothing was graded."""
    names = ("agreed_right", "parted_right", "agreed_wrong", "parted_wrong")
    told = [[one.get(name, math.nan) for name in names] for one in known]
    graded = [shares for shares in told if all(map(math.isfinite, shares))]
    if not graded:
        return []
    a, b, c, d = (f"{100 * sum(column) / len(graded):.1f}%" for column in zip(*graded, strict=True))
    return [
        f"Of the tokens of graded texts, mean over rounds: in right ones the teacher's likeliest token was written in "
        f"{a} and another in {b}, in wrong ones its likeliest in {c} and another in {d}."
    ]


def shown(value: float | None, factor: int, digits: int) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{factor * value:,.{digits}f}"


def drawing(known: Rounds, folder: Folder) -> Drawing | None:
    if len(known) < 2:
        return None
    caption = "What the student wrote, round by round. Dashes: the second line of a panel; dots: the third."
    label = (
        f"By round, 0 to {known[-1]['round']:.0f}: KL, entropy, share right, length, and texts that did not end well"
    )
    return folder.draw(figure(known), "rounds", label, caption)


def figure(known: Rounds) -> Figure:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from ekd.report.look import STYLE, WIDTH
    from ekd.report.palette import BAND, OTHER, TOPK

    looks = ((BAND, "-"), (TOPK, (0, (5, 2))), (OTHER, (0, (1, 1.2))))
    with mpl.rc_context(STYLE):
        drawn = Figure((WIDTH, 4.6), layout="constrained")
        places = drawn.subplots(2, 3).ravel()
        for axes, (title, lines) in zip(places, PANELS, strict=False):
            for (label, key, factor), (colour, dash) in zip(lines, looks, strict=False):
                pairs = [(one["round"], factor * one.get(key, math.nan)) for one in known]
                x, y = zip(*pairs, strict=True)
                axes.plot(x, y, color=colour, linestyle=dash, linewidth=1.6, label=label)
            axes.set_title(title)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            if len(lines) > 1:
                axes.legend(fontsize=8, handlelength=2.2)
            if title.endswith("%"):
                axes.set_ylim(-3, 103)
        places[-1].set_axis_off()
        drawn.supxlabel("round", fontsize=9.5)
    return drawn
