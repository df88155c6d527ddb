"""The look of a report's figures: what every axis, line and legend has in common.

Methods are told apart without colour vision, by dash and mark, and read in light and dark. Colours come from `palette`,
whose light values `ekd.report.svg` exchanges for variables of the page's style.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from ekd.method import VANILLA, Method
from ekd.report.palette import BAND, INK, LINE, OTHER, PAGE, RANDOM, SOFT, TEACHER_FREE, TOPK, by_percentile

WIDTH = 8.4  # inches; the page scales it
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "svg.fonttype": "none",  # text stays text: searchable, and in the reader's own font
    "svg.hashsalt": "ekd",  # the same figure gives the same file
    "figure.facecolor": PAGE,
    "axes.facecolor": PAGE,
    "savefig.facecolor": PAGE,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "text.parse_math": False,  # a method's name is a name, whatever signs it holds
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}


def colour_of(method: Method) -> str:
    if method == VANILLA:
        return INK
    if method.is_teacher_free:
        return TEACHER_FREE
    if method.is_random:
        return RANDOM
    if method.selector.name == "topk":
        return TOPK
    return BAND if method.band else OTHER


def line_style(method: Method) -> dict[str, Any]:
    """A line's colour, a dash that tells families apart without it, and a mark that tells their shares apart."""
    ends, share = method.band, method.width or 0
    mark: dict[str, Any] = {"marker": "os^Dv"[int(share // 5) % 5], "markersize": 3.5}
    if ends:
        wide = share > 10
        line: dict[str, Any] = {"color": by_percentile(sum(ends) / 2), "linewidth": 1.5}
        return line | ({"linestyle": (0, (4, 1.5)), **mark} if wide else {})
    dash: Any = (0, (5, 2)) if method.is_random else (0, (6, 1.5, 1, 1.5))
    if method == method.plain:
        dash = (0, (1, 1.2)) if method.is_teacher_free else "-"
    style = {"color": colour_of(method), "linewidth": 1.8, "linestyle": dash}
    return style | (mark if share else {})


def room_below(names: Iterable[str]) -> float:
    """Inches that slanting names take below an axis, beyond those of short ones."""
    return 0.065 * max([0, *(len(name) - 14 for name in names)])


def add_legend(figure: Figure, names: Mapping[Method, str]) -> None:
    """Beside the panels, one entry a method, each marked as its line is, so that a page can light both up.

    names: as the lines are labelled; the page knows them by their whole name.
    """
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if len(labels) < 2:
        return
    whole = {label: name for name, label in names.items()}
    legend = figure.legend(handles, labels, loc="outside right upper", fontsize=8, handlelength=2.6, labelspacing=0.25)
    for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
        for part in (handle, text):
            if part is not None:
                part.set_gid(f"series:{whole[text.get_text()]}")


def log_if_wide(axes: Axes, values: Sequence[float]) -> None:
    """A curve that falls tenfold hides its end on a linear scale."""
    if is_wide(values):
        set_log(axes, "y")


def is_wide(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) > 8 * min(values)


def set_log(axes: Axes, which: str) -> None:
    """Plain numbers at 1, 2 and 5 of each power of ten."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    for formatter in (axis.set_major_formatter, axis.set_minor_formatter):
        formatter("{x:,g}")
    axis.set_minor_locator(LogLocator(subs=(2, 5)))
