"""Means and paired differences over seeds, with Student's t and Holm's correction. Plain numbers in and out.

A table is {method: {seed: value}}. The seed is the unit of replication: runs of a sweep share their held-out problems,
so nothing here says what other problems would have shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from ekd.eval.statistics import LEVEL, told_apart
from ekd.method import Method

Table = Mapping[Method, Mapping[int, float]]


class Estimate(NamedTuple):
    """low and high are None where one seed gives no interval."""

    mean: float
    low: float | None
    high: float | None
    n: int


class Effect(NamedTuple):
    """method - control over the seeds that both have. None: too few seeds to say."""

    method: Method
    control: Method
    n: int
    difference: float
    low: float | None  # 95%, of this comparison alone
    high: float | None
    p: float | None  # two-sided, paired t
    corrected: float | None  # Holm's, over the family that was compared at once

    def corrected_half(self, family: int) -> float | None:
        """Half the interval that would have to miss 0 for this comparison to be the first shown of so many (Holm)."""
        if self.high is None:
            return None
        error = (self.high - self.difference) / stats.t.ppf((1 + LEVEL) / 2, self.n - 1)
        return float(error * stats.t.ppf(1 - (1 - LEVEL) / (2 * family), self.n - 1))

    @property
    def found(self) -> bool:
        """A difference that survives the correction."""
        return told_apart(self.corrected, self.low, self.high)

    @property
    def hinted(self) -> bool:
        """A difference that would count had it been the only comparison."""
        return not self.found and told_apart(self.p, self.low, self.high)


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95% interval by Student's t with n - 1 degrees of freedom."""
    x = np.asarray(values, float)
    if len(x) < 2:
        return Estimate(float(x.mean()), None, None, len(x))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    mean = float(x.mean())
    return Estimate(mean, mean - half, mean + half, len(x))


def compare_methods(table: Table, pairs: Sequence[tuple[Method, Method]]) -> list[Effect]:
    """Every (method, control) of `pairs`, as one family: Holm (1979) holds its error at 5% whatever depends on what."""
    changes = [seed_differences(table, method, control) for method, control in pairs]
    n = np.array([len(change) for change in changes])
    mean = np.array([change.mean() if len(change) else np.nan for change in changes])
    error = np.array([change.std(ddof=1) / np.sqrt(len(change)) if len(change) > 1 else np.nan for change in changes])
    # Differences that are all alike have no spread to judge by: with marks of few problems that is chance, not proof.
    error[error <= 1e-9 * np.maximum(np.abs(mean), 1e-12)] = np.nan
    freedom = np.maximum(n - 1, 1)
    half = stats.t.ppf((1 + LEVEL) / 2, freedom) * error
    p = 2 * stats.t.sf(np.abs(mean) / error, freedom)
    corrected = holm(p)
    ends = [(_number(m - h), _number(m + h)) for m, h in zip(mean, half, strict=True)]
    return [
        Effect(*pair, int(n[i]), float(mean[i]), *ends[i], _number(p[i]), _number(corrected[i]))
        for i, pair in enumerate(pairs)
        if n[i]
    ]


def seed_differences(table: Table, method: Method, control: Method) -> np.ndarray:
    """(seeds in common,) method - control."""
    seeds = sorted(table[method].keys() & table[control].keys())
    return np.array([table[method][seed] - table[control][seed] for seed in seeds], float)


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """p values made larger, so that calling all below 0.05 errs anywhere in the family in 5% at most (Holm 1979).

    Those that are nan could not be tested; they stay nan and cost the others nothing.
    """
    p = np.asarray(p, float)
    result = np.full(len(p), np.nan)
    order = np.argsort(p)[: int(np.isfinite(p).sum())]
    steps = p[order] * np.arange(len(order), 0, -1)
    result[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return result


def any_difference(table: Table, methods: Sequence[Method]) -> float | None:
    """p of "all of these methods are alike" (Friedman 1937, ranks within each seed); None with too few to say."""
    seeds = set.intersection(*(set(table[method]) for method in methods)) if methods else set()
    if len(methods) < 3 or len(seeds) < 2:
        return None
    columns = np.array([[table[method][seed] for seed in sorted(seeds)] for method in methods])
    if np.ptp(columns, axis=0).max() == 0:
        return 1.0
    return float(stats.friedmanchisquare(*columns).pvalue)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
