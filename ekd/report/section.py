"""One budget of a sweep, ready to be shown: what was measured, by method and seed. Budgets are never mixed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean
from typing import NamedTuple

from ekd.method import Method, comparisons_of, control_of, ordered, twins_of
from ekd.report.cell import Cell
from ekd.report.conditions import divided
from ekd.report.effects import Effect, Estimate, compare_methods, estimate
from ekd.report.short import short_names
from ekd.report.sweep import Lost, SweepCells


class Metric(NamedTuple):
    name: str  # for files: kl, agreement, accuracy
    label: str
    unit: str
    falls: bool  # lower is better
    factor: float = 1.0


KL = Metric("kl", "held-out KL to the teacher", "nats", True)
AGREEMENT = Metric("agreement", "top-1 agreement with the teacher", "%", False, 100.0)
ACCURACY = Metric("accuracy", "accuracy in the benchmark", "%", False, 100.0)
DECILES = [f"choice/kl/decile{d}" for d in range(10)]
TITLES = {"steps": "Equal steps", "tokens": "Equal supervised tokens", "": "Runs"}


class Section(NamedTuple):
    budget: str
    cells: list[Cell]
    lost: list[Lost]
    missing: list[tuple[str, int]]
    methods: list[Method]
    seeds: list[int]
    shares: dict[Method, float]  # of the response tokens that a method was seen to learn from, mean over its seeds
    setting: str = ""  # what else this part of the sweep has in common: dataset=gsm8k, student.optimizer.lr=0.001

    @property
    def title(self) -> str:
        return f"{TITLES[self.budget]}, {self.setting}" if self.setting else TITLES[self.budget]

    @property
    def short(self) -> dict[Method, str]:
        """The methods' names in figures, tables and sentences of this section."""
        return short_names(self.methods)

    def of(self, method: Method) -> list[Cell]:
        return [cell for cell in self.cells if cell.method == method]

    def control(self, method: Method) -> Method | None:
        """The random run of the nearest measured share."""
        return control_of(method, self.shares) if method.selects else None


class Result(NamedTuple):
    """One metric of a section."""

    metric: Metric
    table: dict[Method, dict[int, float]]
    means: dict[Method, Estimate]
    comparisons: list[Effect]
    twins: dict[Method, Method]  # {method: its other name}, compared once
    decimals: int
    controls: dict[Method, Method]  # {method that selects: its random control}

    @property
    def tested(self) -> list[Effect]:
        """The family that the correction is for."""
        return [c for c in self.comparisons if c.p is not None and c.method not in self.twins]

    def against(self, method: Method, control: Method | None) -> Effect | None:
        return next((c for c in self.comparisons if (c.method, c.control) == (method, control)), None)

    def show(self, value: float, signed: bool = False) -> str:
        """With a true minus, as many decimals as the seeds' spread deserves, without the unit."""
        text = f"{value:{'+' if signed else ''}.{self.decimals}f}"
        return text.replace("-", "−")

    def span(self, low: float | None, high: float | None, signed: bool = False) -> str:
        if low is None or high is None:
            return "no interval"
        return f"[{self.show(low, signed)}, {self.show(high, signed)}]"

    def ranked(self, methods: Sequence[Method]) -> list[Method]:
        """The best first."""
        return sorted(methods, key=lambda name: self.means[name].mean, reverse=not self.metric.falls)

    def better(self, comparison: Effect) -> bool:
        return (comparison.difference < 0) == self.metric.falls


def sections(sweep: SweepCells) -> list[Section]:
    """Steps before tokens; within a budget, one for each setting under which whole methods were run."""
    budgets = sorted({cell.budget for cell in sweep.cells}, key=lambda name: (name == "", name))
    found = []
    for budget in budgets:
        parts = divided([cell for cell in sweep.cells if cell.budget == budget])
        only = len(budgets) == len(parts) == 1
        found += [_section(sweep, budget, setting, cells, only=only) for setting, cells in parts.items()]
    return found


def _section(sweep: SweepCells, budget: str, setting: str, cells: list[Cell], only: bool) -> Section:
    lost = [cell for cell in sweep.lost if (cell.budget == budget and not setting) or (only and cell.budget == "")]
    there: list[Cell | Lost] = [*cells, *lost]
    seen = {(str(cell.method), cell.seed) for cell in there} | {(cell.folder.parent.name, cell.seed) for cell in there}
    methods = ordered(cell.method for cell in cells)
    seeds = sorted({cell.seed for cell in cells})
    grid = {(method.name, seed) for method in methods for seed in seeds}
    if not setting:
        grid |= {(name, seed) for planned, name, seed in sweep.planned if planned == budget or (only and not budget)}
    shares = {one: mean(c.figures["train"]["selected"] for c in cells if c.method == one) for one in methods}
    return Section(budget, cells, lost, sorted(grid - seen), methods, seeds, shares, setting)


def value(cell: Cell, metric: Metric) -> float | None:
    """In the metric's unit; None where this run did not measure it."""
    if metric is ACCURACY:
        metrics = cell.figures.get("benchmark", {}).get("student after")
        found = metrics["accuracy"] if metrics else None
    else:
        found = cell.figures["after"].get(f"val/{metric.name}")
    return None if found is None or not math.isfinite(found) else float(found) * metric.factor


def result(section: Section, metric: Metric) -> Result | None:
    """None where no run measured it."""
    table: dict[Method, dict[int, float]] = {method: {} for method in section.methods}
    for cell in section.cells:
        found = value(cell, metric)
        if found is not None:
            table[cell.method][cell.seed] = found
    table = {name: seeds for name, seeds in table.items() if seeds}
    if not table:
        return None
    means = {name: estimate(list(seeds.values())) for name, seeds in table.items()}
    shares = {method: section.shares[method] for method in table}
    controls = {one: control for one in table if one.selects and (control := control_of(one, shares)) is not None}
    return Result(metric, table, means, *_compared(table, shares), _decimals(means, metric), controls)


def _compared(
    table: dict[Method, dict[int, float]], shares: dict[Method, float]
) -> tuple[list[Effect], dict[Method, Method]]:
    """A method of two names is tested by one, which costs the others one correction less, and shown by both."""
    same, wanted = twins_of(table), comparisons_of(shares)
    found = {(c.method, c.control): c for c in compare_methods(table, [pair for pair in wanted if pair[0] not in same])}
    for name, other in same.items():
        found |= {(name, c.control): c._replace(method=name) for c in list(found.values()) if c.method == other}
    return [found[pair] for pair in wanted if pair in found], same


def decile_means(section: Section, when: str = "after") -> dict[Method, list[float]]:
    """Mean over seeds of the KL in each tenth; without methods that lack one. when: before or after."""
    found = {}
    for name in section.methods:
        cells = [cell.figures[when] for cell in section.of(name)]
        whole = [[figures[key] for key in DECILES] for figures in cells if set(DECILES) <= set(figures)]
        if whole:
            found[name] = [mean(column) for column in zip(*whole, strict=True)]
    return found


def results(section: Section) -> list[Result]:
    """The first is the one that the words are about."""
    found = [result(section, metric) for metric in (KL, AGREEMENT, ACCURACY)]
    return [one for one in found if one is not None]


def _decimals(means: dict[Method, Estimate], metric: Metric) -> int:
    """Two digits of the typical half interval; four significant ones of the mean where there is none."""
    halves = sorted(m.high - m.mean for m in means.values() if m.high is not None and m.high > m.mean)
    if not halves:
        return 1 if metric.unit == "%" else 3
    return min(5, max(1, 1 - math.floor(math.log10(halves[len(halves) // 2]))))
