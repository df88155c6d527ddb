"""What the data support and what they do not, in words that follow from the numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median
from typing import NamedTuple

from ekd.method import ORIGINAL, TEACHER_FREE, VANILLA, tiling
from ekd.report.effects import Effect, any_difference
from ekd.report.section import Result, Section, decile_means


class Findings(NamedTuple):
    headline: str
    points: list[str]
    limits: list[str]


def findings(section: Section, results: Sequence[Result]) -> Findings:
    """results: the first carries the words, the others a sentence each."""
    main = results[0]
    points = [
        *_order(main),
        *_original(main),
        *_against(main, "random", [c for c in main.tested if c.control.is_random]),
        *_against(main, "vanilla", [c for c in main.tested if not c.control.is_random and c.method.selects]),
        *(f"{name} and {other} chose the same tokens and count once." for name, other in main.twins.items()),
        *_where(section, main),
        *_teacher(main),
        *(_also(other) for other in results[1:]),
    ]
    return Findings(_headline(main), points, _limits(section, main))


def finding_sentence(result: Result, c: Effect) -> str:
    """bucket_70_80 is not told apart from random_10 at this size: difference +0.02 nats [−0.05, 0.09], 3 seeds."""
    numbers = f"difference {result.show(c.difference, True)} {_unit(result)}"
    if c.low is None or c.high is None or c.p is None or c.corrected is None:
        why = "one seed" if c.n == 1 else f"{c.n} seeds, all exactly alike"
        return f"{c.method} and {c.control}: {numbers}; {why}, so nothing says whether that is chance."
    numbers += f" {result.span(c.low, c.high)}, {c.n} seeds"
    word = "better" if result.better(c) else "worse"
    if c.found:
        return f"{c.method} is {word} than {c.control}: {numbers}, p {chance(c.corrected)} corrected."
    if c.hinted:
        return (
            f"{c.method} may be {word} than {c.control}: {numbers}, p {chance(c.p)} alone but {chance(c.corrected)} "
            f"after correction for {len(result.tested)} comparisons, so this sweep does not show it."
        )
    return f"{c.method} is not told apart from {c.control} at this size: {numbers}."


def chance(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.095 else f"{p:.2f}"


def _unit(result: Result) -> str:
    return "points" if result.metric.unit == "%" else result.metric.unit


def _headline(main: Result) -> str:
    so = "so it cannot say whether it matters which tokens are chosen."
    if not any(method.selects for method in main.table):
        return f"No method of this sweep chooses tokens, {so}"
    if not main.controls:
        return f"There is no random control of the same share in this sweep, {so}"
    versus = [c for c in main.comparisons if c.control.is_random]
    if not versus:
        return f"No method shares a seed with random tokens of its share, {so}"
    tested = [c for c in main.tested if c in versus]
    if not tested and any(c.n > 1 for c in versus):
        return "Every seed gave the same difference to random tokens of the same share: there is no spread to judge by."
    if not tested:
        return "There are too few seeds to tell any method from random tokens of the same share."
    better = [c for c in tested if c.found and main.better(c)]
    worse = [c for c in tested if c.found and not main.better(c)]
    ways = "way of choosing was" if len(tested) == 1 else "ways of choosing were"
    said = f"{len(tested)} {ways} compared with random tokens of the same share"
    if not better and not worse:
        return f"{said}; at this size, none is shown to be better or worse."
    parts = [f"{len(group)} {word}" for group, word in ((better, "better"), (worse, "worse")) if group]
    rest = len(tested) - len(better) - len(worse)
    return f"{said}: {' and '.join(parts)}" + (f", {rest} not told apart." if rest else ".")


def _order(main: Result) -> list[str]:
    tiles = tiling(main.table)
    p = any_difference(main.table, tiles)
    if p is None:
        return []
    best = main.ranked(tiles)[0]
    value = f"{main.show(main.means[best].mean)} {main.metric.unit}"
    lead = f"the {main.metric.label} is {'lowest' if main.metric.falls else 'highest'} for {best} ({value})"
    if p < 0.05:
        return [
            f"Which of the {len(tiles)} bands is taken matters (Friedman's test, p {chance(p)}): {lead}. The best of "
            f"{len(tiles)} looks better than it is, because it was picked by looking."
        ]
    return [
        f"That it matters which of the {len(tiles)} bands is taken is not shown (Friedman's test, p {chance(p)}); "
        f"{lead}, but one of them has to be."
    ]


def _original(main: Result) -> list[str]:
    """The band that the original recommends, always by name."""
    if ORIGINAL not in main.table:
        return []
    controls = (main.controls.get(ORIGINAL), VANILLA)
    found = [c for c in (main.against(ORIGINAL, control) for control in controls) if c is not None]
    tiles = tiling(main.table)
    if ORIGINAL not in tiles or len(tiles) < 3:
        return [f"The original's band. {finding_sentence(main, c)}" for c in found]
    rank = main.ranked(tiles).index(ORIGINAL) + 1
    return [
        f"The original's claim, that {ORIGINAL} is the band to take: its mean is number {rank} of {len(tiles)} here. "
        + " ".join(finding_sentence(main, c) for c in found)
    ]


def _against(main: Result, what: str, comparisons: Sequence[Effect]) -> list[str]:
    """One line for each outcome, so that twenty methods stay readable; the table has every number."""
    others = [c for c in comparisons if c.method != ORIGINAL]
    name = "random tokens of the same share" if what == "random" else what
    said = []
    for word, wanted in (("Better", True), ("Worse", False)):
        group = [c for c in others if c.found and main.better(c) is wanted]
        if group:
            said.append(f"{word} than {name}: {_listed(main, group)}.")
    hinted = [c for c in others if c.hinted]
    if hinted:
        said.append(
            f"Different from {name} on their own, but not after the correction, so not shown: {_listed(main, hinted)}."
        )
    rest = [c for c in others if not c.found and not c.hinted]
    if rest:
        said.append(f"Not told apart from {name} at this size: {_listed(main, rest)}.")
    return said


def _listed(main: Result, group: Sequence[Effect]) -> str:
    """A long list goes without its intervals, which the table has."""
    spans = [f" {main.span(c.low, c.high)}" if len(group) <= 4 else "" for c in group]
    return ", ".join(f"{c.method} ({main.show(c.difference, True)}{s})" for c, s in zip(group, spans, strict=True))


def _where(section: Section, main: Result) -> list[str]:
    """Whether a band teaches what it takes, and what that costs elsewhere. Means, not tested."""
    kl, inside, outside = decile_means(section), [], []
    for name in tiling(main.table):
        low, high = name.band or (0, 0)
        own = [d for d in range(10) if low <= 10 * d and 10 * d + 10 <= high]
        control = main.controls.get(name)
        if own and len(own) < 10 and name in kl and control in kl:
            gap = [a - b for a, b in zip(kl[name], kl[control], strict=True)]
            inside.append(mean(gap[d] for d in own))
            outside.append(mean(gap[d] for d in range(10) if d not in own))
    if len(inside) < 3:
        return []
    closer, farther = sum(gap < 0 for gap in inside), sum(gap > 0 for gap in outside)
    return [
        f"Where (means, not tested): beside random tokens of the same share, {closer} of {len(inside)} bands end "
        f"closer to the teacher in their own part of its entropy ({_signed(mean(inside))} nats on average), and "
        f"{farther} of {len(outside)} end farther from it in the rest ({_signed(mean(outside))} nats)."
    ]


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _teacher(main: Result) -> list[str]:
    c = main.against(TEACHER_FREE, VANILLA)
    return [] if c is None else [f"Without the teacher's distribution: {finding_sentence(main, c)}"]


def _also(other: Result) -> str:
    tested = other.tested
    found = [c for c in tested if c.found]
    values = {value for seeds in other.table.values() for value in seeds.values()}
    if len(values) == 1:
        return f"By {other.metric.label}, every run is alike: {other.show(values.pop())}{other.metric.unit}."
    if not tested:
        return f"By {other.metric.label}, nothing can be compared."
    better = sum(other.better(c) for c in found)
    return (
        f"By {other.metric.label}, {len(found)} of {len(tested)} comparisons show a difference after their own "
        f"correction ({better} better, {len(found) - better} worse)."
    )


def _limits(section: Section, main: Result) -> list[str]:
    family = len(main.tested)
    asked = [c for c in main.tested if c.control.is_random]
    what = "to random tokens" if asked else "to vanilla"
    alone = [c.high - c.difference for c in asked or main.tested if c.high is not None]
    said = []
    if alone:
        needed = [half for c in asked or main.tested if (half := c.corrected_half(family)) is not None]
        said.append(
            f"A paired difference {what} is known to ±{main.show(median(alone))} {_unit(main)} on its own, and to be "
            f"the first shown of {family} comparisons it has to be about {main.show(median(needed))} (medians): "
            "smaller ones are seldom seen, and “not told apart” is no proof that two methods are equal."
        )
        said.append(
            "The correction is for the comparisons of one metric. Other metrics and Friedman's test stand beside it: "
            "somewhere on this page, chance alone shows something more often than in 5 of 100 sweeps."
        )
    said.append(
        "The seed is the unit of replication. All runs share their held-out problems, so an interval says what other "
        "seeds would give, not other problems, another teacher or another student."
    )
    if section.budget == "steps":
        said.append(
            "At equal steps a method that takes a tenth of the tokens learns from a tenth of them: beside vanilla it "
            "has seen less, beside random of the same share it has not."
        )
    if section.budget == "tokens":
        said.append(
            "At equal supervised tokens a method that takes a tenth of the tokens reads ten times the text of vanilla "
            "and makes ten times its steps: beside vanilla it had more computing, beside random of the same share not."
        )
    return said
