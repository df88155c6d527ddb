"""The figures of a report, drawn by matplotlib in one look (`ekd.report.look`).

Every function gives a Figure of its own (no pyplot, no state). short: the names that its page has for the methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ekd.method import Method, tiling
from ekd.report.look import (
    STYLE,
    WIDTH,
    add_legend,
    colour_of,
    is_wide,
    line_style,
    log_if_wide,
    room_below,
    set_log,
)
from ekd.report.palette import BAND, INK, PAGE, SOFT, WIDE
from ekd.report.svg import POINT

if TYPE_CHECKING:  # a single run's page needs no statistics, and so no scipy
    from ekd.report.effects import Effect, Estimate
    from ekd.report.section import Result

Names = Mapping[Method, str]
ROOM = 20  # letters of a name for which there is room beside a panel


def bucket_curve(result: Result, short: Names) -> Figure:
    """The metric of every band over its percentiles, beside the controls; dots are seeds, boxes 95% intervals."""
    controls = [name for name in result.table if name.band is None]
    if len(controls) == len(result.table):
        return _methods_only(controls, result, short)
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 4.4 + room_below(short[name] for name in controls)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 0.28 * len(controls) + 0.3])
        for name in _backdrop(result):
            _strip(left, name, result.means[name], short[name])
        _bands(left, result)
        _points(right, controls, result, short)
        low, high = _limits(result)
        left.set_ylim(low, high)
        _beyond(right, controls, result, low, high)
        left.set(xlim=(0, 100), xlabel="percentile of the score within the sequence", ylabel=_axis(result))
        left.set_xticks(range(0, 101, 10))
    return figure


def _methods_only(names: Sequence[Method], result: Result, short: Names) -> Figure:
    """A sweep without bands."""
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 4.0 + room_below(short[name] for name in names)), layout="constrained")
        axes = figure.subplots()
        _points(axes, names, result, short)
        axes.set_ylabel(_axis(result))
    return figure


def _bands(axes: Axes, result: Result) -> None:
    tiles = set(tiling(result.table))
    for name, values in result.table.items():
        ends = name.band
        if ends is None:
            continue
        mean, colour = result.means[name], BAND if name in tiles else WIDE
        style = "-" if name in tiles else (0, (4, 1.5))
        if mean.low is not None and mean.high is not None:
            axes.fill_between(ends, mean.low, mean.high, color=colour, alpha=0.16, linewidth=0, gid=f"{POINT}{name}")
        line = axes.plot(ends, [mean.mean] * 2, color=colour, linewidth=2.2, linestyle=style, solid_capstyle="butt")
        line[0].set_gid(f"{POINT}{name}")
        places = np.linspace(ends[0], ends[1], len(values) + 2)[1:-1]
        axes.plot(places, list(values.values()), "o", color=colour, markersize=3.2, markeredgewidth=0)


def _backdrop(result: Result) -> list[Method]:
    """The controls that the bands are to be seen against: every token, and as many by chance and from the top."""
    tile = tiling(result.table)[0]
    wanted = [tile.plain, result.controls.get(tile)]
    wanted += [one for one in result.table if one.selector.name == "topk" and one.width == tile.width]
    return [one for one in wanted if one is not None and one in result.means and one.plain == tile.plain]


def _strip(axes: Axes, name: Method, mean: Estimate, label: str) -> None:
    """A control across all percentiles."""
    colour = colour_of(name)
    if mean.low is not None and mean.high is not None:
        axes.axhspan(mean.low, mean.high, color=colour, alpha=0.1, linewidth=0)
    axes.axhline(mean.mean, color=colour, linewidth=1.1, linestyle="-" if name == name.plain else (0, (5, 2)))
    # at places of their own, so that two controls of about one value do not write over each other
    place, side = {"vanilla": (100, "right"), "random": (0, "left")}.get(name.selector.name, (50, "center"))
    shift = {"right": -3, "left": 3, "center": 0}[side]
    axes.annotate(
        label, (place, mean.mean), (shift, 3), textcoords="offset points", ha=side, color=colour, fontsize=8.5
    )


def _points(axes: Axes, names: Sequence[Method], result: Result, short: Names) -> None:
    for place, name in enumerate(names):
        mean, values, colour = result.means[name], list(result.table[name].values()), colour_of(name)
        if mean.low is not None and mean.high is not None:
            box = axes.fill_between(
                [place - 0.3, place + 0.3], mean.low, mean.high, color=colour, alpha=0.18, linewidth=0
            )
            box.set_gid(f"{POINT}{name}")
        line = axes.plot(
            [place - 0.3, place + 0.3], [mean.mean] * 2, color=colour, linewidth=2.2, solid_capstyle="butt"
        )
        line[0].set_gid(f"{POINT}{name}")
        axes.plot(
            place + np.linspace(-0.15, 0.15, len(values)), values, "o", color=colour, markersize=3.2, markeredgewidth=0
        )
    axes.set_xticks(range(len(names)), [short[name] for name in names], rotation=60, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, max(len(names) - 0.4, 0.6))
    axes.grid(axis="x", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _limits(result: Result) -> tuple[float, float]:
    """All seeds, but for methods that would leave the bands no room; a wide interval may be cut."""
    near = [v for name, values in result.table.items() if name.band or name.is_random for v in values.values()]
    near = near or [v for values in result.table.values() for v in values.values()]
    room = max(max(near) - min(near), 1e-6)
    shown = [n for n in result.table if min(near) - 1.2 * room <= result.means[n].mean <= max(near) + 1.2 * room]
    inside = [v for name in shown for v in result.table[name].values()]
    margin = 0.12 * max(max(inside) - min(inside), 1e-6)
    return min(inside) - margin, max(inside) + margin


def _beyond(axes: Axes, names: Sequence[Method], result: Result, low: float, high: float) -> None:
    """A control off the scale is named with its value at the edge."""
    for place, name in enumerate(names):
        mean = result.means[name].mean
        if low <= mean <= high:
            continue
        above = mean > high
        text = f"{'↑' if above else '↓'} {result.show(mean)}"
        axes.annotate(text, (place, high if above else low), (0, -4 if above else 4), textcoords="offset points",
                      ha="center", va="top" if above else "bottom", rotation=90,
                      color=colour_of(name), fontsize=8.5)  # fmt: skip


def differences(result: Result, short: Names) -> Figure:
    """Every method minus its random control and minus vanilla, paired by seed, with 95% intervals."""
    groups = [
        ("minus random of the same share", [c for c in result.comparisons if c.control.is_random]),
        ("minus vanilla", [c for c in result.comparisons if not c.control.is_random]),
    ]
    groups = [(title, group) for title, group in groups if group]
    counts = [len(group) for _, group in groups]
    beside = max(len(short[c.method]) for _, group in groups for c in group) <= ROOM  # else one panel above the other
    height = 0.9 + 0.24 * max(counts) if beside else 0.9 * len(groups) + 0.24 * sum(counts)
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, height), layout="constrained")
        shape: dict[str, Any] = {"ncols": len(groups)} if beside else {"nrows": len(groups), "height_ratios": counts}
        for axes, (title, group) in zip(np.atleast_1d(figure.subplots(**shape)), groups, strict=True):
            _forest(axes, title, group, result, short)
    return figure


def _forest(axes: Axes, title: str, group: Sequence[Effect], result: Result, short: Names) -> None:
    axes.axvline(0, color=INK, linewidth=1)
    for place, c in enumerate(group):
        colour = BAND if c.found else SOFT
        if c.low is not None and c.high is not None:
            axes.plot([c.low, c.high], [place] * 2, color=colour, linewidth=2 if c.found else 1.2)
        face = colour if c.found else PAGE
        axes.plot([c.difference], [place], "o", color=colour, markerfacecolor=face, markersize=5)
    axes.set_yticks(range(len(group)), [short[c.method] for c in group])
    axes.set_ylim(len(group) - 0.4, -0.6)
    ends = [v for c in group for v in (c.difference, c.low or 0, c.high or 0, 0)]
    margin = 0.07 * (max(ends) - min(ends)) or 1
    axes.set_xlim(min(ends) - margin, max(ends) + margin)
    unit = "points" if result.metric.unit == "%" else result.metric.unit
    axes.set(title=title, xlabel=f"{'← better' if result.metric.falls else '← worse'} · {unit} · "
             f"{'worse →' if result.metric.falls else 'better →'}")  # fmt: skip
    axes.grid(axis="y", visible=False)


Lines = Mapping[Method, tuple[Sequence[float], Sequence[float]]]  # method -> x, y


def curves(panels: Sequence[tuple[str, Lines, bool]], ylabel: str, short: Names) -> Figure:
    """panels: the label of each x axis, a line for every method, and whether x is on a log scale."""
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 3.6), layout="constrained")
        row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (label, lines, log) in zip(row, panels, strict=True):
            for name, (x, y) in lines.items():
                axes.plot(x, y, label=short[name], gid=f"series:{name}", **line_style(name))
            axes.set_xlabel(label)
            axes.xaxis.get_major_locator().set_params(integer=True)  # no step is 2.5, called 2
            axes.xaxis.set_major_formatter("{x:,.0f}")
            if log and is_wide([v for x, _ in lines.values() for v in x]):
                set_log(axes, "x")
            log_if_wide(axes, [v for _, y in lines.values() for v in y])
        figure.axes[0].set_ylabel(ylabel)
        add_legend(figure, short)
    return figure


def deciles(before: Sequence[float] | None, after: Mapping[Method, Sequence[float]], short: Names) -> Figure:
    """KL of the rows in each tenth of their sequence by teacher entropy."""
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[2, 3])
        for axes in (left, right):
            for name, values in after.items():
                axes.plot(range(1, 11), values, label=short[name], gid=f"series:{name}", **line_style(name))
            axes.set_xticks(range(1, 11))
        if before is not None:
            left.plot(
                range(1, 11), before, color=SOFT, linewidth=1.4, linestyle=(0, (1, 1.5)), marker="o", markersize=3
            )
            left.annotate(
                "before", (10, before[-1]), (0, -5), textcoords="offset points", ha="right", va="top", color=SOFT
            )
        left.set(title="before and after", ylabel="KL to the teacher, nats")
        right.set(title="after")
        figure.supxlabel("tenth of the sequence by teacher entropy (10 = most unsure)", fontsize=9.5)
        for axes, shown in ((left, [*after.values(), before or []]), (right, list(after.values()))):
            log_if_wide(axes, [v for values in shown for v in values])
        add_legend(figure, short)
    return figure


def histogram(edges: Sequence[float], counts: Sequence[float]) -> Figure:
    """Share of the traces' tokens by the teacher's entropy, with the percentiles that a bucket counts in."""
    total = sum(counts) or 1
    shares = [100 * count / total for count in counts]
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH, 3.0), layout="constrained")
        axes = figure.subplots()
        axes.stairs(shares, edges, fill=True, color=BAND, alpha=0.85)
        axes.set(xlabel="teacher entropy, nats", ylabel="% of the tokens", xlim=(edges[0], edges[-1]))
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        inside = np.concatenate([[0], np.cumsum(shares)])
        for percentile in (50, 70, 80, 90, 95):
            place = float(np.interp(percentile, inside, edges))
            axes.axvline(place, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
            axes.annotate(f"{percentile}%", (place, 1), (2, -2), xycoords=("data", "axes fraction"),
                          textcoords="offset points", va="top", fontsize=8, rotation=90)  # fmt: skip
    return figure


def _axis(result: Result) -> str:
    return f"{result.metric.label}, {result.metric.unit}"
