"""The page of two models' answers to the same problems, side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ekd.eval.answers import Answer, Key, read_answers
from ekd.eval.compare import Comparison, comparison_rows, words
from ekd.eval.metrics import by_problem, share_of_status
from ekd.eval.statistics import Interval, mean_interval, wilson
from ekd.outside import check_tree
from ekd.report.answers_sheet import answers_sheet, is_right
from ekd.report.page import Drawing, Folder, folder
from ekd.report.plain import Table, Value

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def compare_page(found: Comparison, a: Path, b: Path) -> Path:
    """a, b: their files of answers. -> the page, compare/NAME/index.html beside B's answers, NAME saying which A."""
    check_tree(b.parent, ["compare"])
    name = f"{a.parent.name}-{hashlib.sha256(str(a.resolve()).encode()).hexdigest()[:6]}"
    known = {"A": read_answers(a), "B": read_answers(b)}
    where = folder(b.parent / "compare" / name, png=False)
    change = found.change
    points = [100 * v for v in (change.value, change.low, change.high)]
    return where.render(
        "compare.html",
        title=f"{b.parent.name} against {a.parent.name}",
        kicker="Two models of ekd on the same problems: B minus A",
        tally=[
            ("A", f"{100 * found.a:.1f}%", ""),
            ("B", f"{100 * found.b:.1f}%", ""),
            ("B − A", signed(points[0]), f"points [{signed(points[1])}, {signed(points[2])}]"),
            ("p", f"{change.p:.3g}", change.test),
            ("problems", str(found.problems), "in common"),
        ],
        headline=verdict_sentence(found),
        difference=difference_drawing(found, known, where),
        table=Table(
            "compare", "B against A", ["", "found"], [list(map(Value, row)) for row in comparison_rows(found)], []
        ),
        answers=answers_sheet(known, order(known)),
        a=a.parent,
        b=b.parent,
        made_by=f"python -m ekd.evaluate compare {a.parent} {b.parent} page=true",
    )


def signed(points: float) -> str:
    return f"{points:+.1f}".replace("-", "−")


def verdict_sentence(found: Comparison) -> str:
    said = words(found.change)
    gained = sum(flip.b > flip.a for flip in found.flips)
    return (
        f"{said[0].upper()}{said[1:]}: B − A is {signed(100 * found.change.value)} points "
        f"[{signed(100 * found.change.low)}, {signed(100 * found.change.high)}] over {found.problems} problems; B is "
        f"better on {gained} of them, A on {len(found.flips) - gained}."
    )


def order(known: Mapping[str, Mapping[Key, Answer]]) -> list[Key]:
    """Problems that both answered: those that B alone solved, those that A alone solved, then the others."""
    a, b = known.values()
    place = {(False, True): 0, (True, False): 1, (True, True): 2, (False, False): 3}
    both = [key for key in a if key in b]
    return sorted(both, key=lambda key: place[is_right(a[key]), is_right(b[key])])


def interval(answers: Sequence[Answer]) -> tuple[float, Interval]:
    """Accuracy over problems, and its 95% interval."""
    sheets = by_problem(answers)
    shares = [share_of_status(sheet, "correct") for sheet in sheets]
    single = all(len(sheet) == 1 for sheet in sheets)
    return sum(shares) / len(shares), wilson(sum(shares), len(shares)) if single else mean_interval(shares)


def difference_drawing(found: Comparison, known: Mapping[str, Mapping[Key, Answer]], where: Folder) -> Drawing:
    a, b = known.values()
    common = {key[0] for key in a} & {key[0] for key in b}
    rows = [(who, *interval([one for one in by.values() if one.problem_id in common])) for who, by in known.items()]
    label = f"Accuracy of A and B with 95% intervals, and their paired difference: {verdict_sentence(found)}"
    caption = (
        "Left: the paired difference with its 95% interval, which is what counts. Right: accuracy with 95% intervals "
        "over problems; both answered the same ones, so these may overlap while the difference is clear."
    )
    return where.draw(difference_figure(found, rows), "difference", label, caption)


def difference_figure(found: Comparison, rows: Sequence[tuple[str, float, Interval]]) -> Figure:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from ekd.report.look import STYLE, WIDTH
    from ekd.report.palette import BAND, INK, OTHER

    change = found.change
    with mpl.rc_context(STYLE):
        drawn = Figure((WIDTH, 1.9), layout="constrained")
        difference, accuracy = drawn.subplots(1, 2)  # a phone shows the left one, and the difference counts
        for place, (_, share, (low, high)) in enumerate(rows):
            accuracy.plot([100 * low, 100 * high], [place] * 2, color=OTHER, linewidth=2)
            accuracy.plot([100 * share], [place], "o", color=OTHER, markersize=6)
        accuracy.set_yticks(range(len(rows)), [who for who, *_ in rows])
        accuracy.set(title="accuracy, %", ylim=(len(rows) - 0.5, -0.5))
        difference.axvline(0, color=INK, linewidth=1)
        difference.plot([100 * change.low, 100 * change.high], [0, 0], color=BAND, linewidth=2)
        difference.plot([100 * change.value], [0], "o", color=BAND, markersize=6)
        difference.set_yticks([0], ["B − A"])
        difference.set(title="paired difference, points", ylim=(0.5, -0.5))
        for axes in (difference, accuracy):
            axes.grid(axis="y", visible=False)
    return drawn
