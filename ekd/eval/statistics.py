"""Intervals and tests for shares of solved problems. Plain numbers in, plain numbers out; every interval is 95%."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, sqrt
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95
DRAWS = 10_000  # of a bootstrap: its ends then move by about 0.01 of the interval's width from seed to seed


class Interval(NamedTuple):
    low: float
    high: float


class Difference(NamedTuple):
    value: float
    low: float
    high: float
    p: float  # two-sided, of "there is no difference"
    test: str


def told_apart(p: float | None, low: float | None, high: float | None) -> bool:
    """The one rule for "better" and "worse": the test and the interval both say so. None: too few to say.

    A method whose interval is not the inverse of its test (McNemar's and Agresti and Min's; a bootstrap and a flip of
    signs) may have one without the other, which is no finding. What is not told apart is not shown to be equal.
    """
    return p is not None and low is not None and high is not None and p < 1 - LEVEL and (low > 0 or high < 0)


def wilson(correct: float, n: int) -> Interval:
    """The score interval of a binomial share (Wilson 1927): good at small n and near 0 and 1, where AIME lives."""
    if n <= 0:
        return Interval(0.0, 1.0)
    if not float(correct).is_integer():  # votes that are shared between answers
        return _score(correct / n, n, float(stats.norm.ppf((1 + LEVEL) / 2)))
    found = stats.binomtest(int(correct), n).proportion_ci(LEVEL, "wilson")
    return Interval(float(found.low), float(found.high))


def _score(share: float, n: float, z: float) -> Interval:
    """Wilson's interval for what is not a count: n answers' worth, and z standard errors to each side."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def mean_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """Of the mean of one share a problem, each 0 to 1: the problems are the sample, not the answers.

    A bootstrap over problems, expanded for small n (Hesterberg 2015), and never narrower than Wilson's interval for as
    many independent answers as the values' variance is worth: where few problems are ever solved, too few of them are
    in the sample for a bootstrap to know how rare they are (it covers 85% there, at n = 30).
    """
    x = np.asarray(values, float)
    if len(x) < 2:
        return wilson(float(x.sum()), len(x))
    low, high = bootstrap(x, seed)
    mean, variance = float(x.mean()), float(x.var(ddof=1)) / len(x)
    if variance == 0:
        return wilson(float(x.sum()), len(x))
    score = _score(mean, mean * (1 - mean) / variance, float(stats.t.ppf((1 + LEVEL) / 2, len(x) - 1)))
    return Interval(min(low, score.low), max(high, score.high))


def bootstrap(x: np.ndarray, seed: int = 0) -> Interval:
    """Expanded percentile interval of the mean of x (n,): n / (n - 1) and Student's t widen it where n is small."""
    n = len(x)
    random = np.random.default_rng(seed)
    per = max(1, 4_000_000 // n)  # draws at a time: 32 MB
    means = [x[random.integers(0, n, (min(per, DRAWS - at), n))].mean(1) for at in range(0, DRAWS, per)]
    level = stats.norm.cdf(-sqrt(n / (n - 1)) * stats.t.ppf((1 + LEVEL) / 2, n - 1))
    low, high = np.quantile(np.concatenate(means), [level, 1 - level])
    return Interval(float(low), float(high))


def pass_at(k: int, n: int, correct: int) -> float:
    """1 - C(n - c, k) / C(n, k): the chance that k of these n answers, drawn at random, hold a correct one.

    Unbiased for pass@k (Chen et al., arXiv 2107.03374); 1 - (1 - c/n)^k is not.
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs {k} answers a problem and there are {n}; raise benchmark.samples")
    return 1 - comb(n - correct, k) / comb(n, k)


def difference(a: Sequence[float], b: Sequence[float], seed: int = 0) -> Difference:
    """b - a, paired by problem; one share a problem, 0 to 1.

    One answer a problem (all 0 or 1): McNemar's exact test and the interval of Agresti and Min (2005), who add half a
    problem to each kind of pair. Otherwise: a paired bootstrap over problems, and a test that flips signs at random.
    """
    x, y = np.asarray(a, float), np.asarray(b, float)
    change = y - x
    if np.isin(x, (0, 1)).all() and np.isin(y, (0, 1)).all():
        won, lost = int((change > 0).sum()), int((change < 0).sum())
        low, high = _agresti_min(won, lost, len(change))
        return Difference(float(change.mean()), low, high, mcnemar(won, lost), "McNemar, exact")
    low, high = bootstrap(change, seed) if len(change) > 1 else (-1.0, 1.0)
    return Difference(float(change.mean()), low, high, _sign_flip(change, seed), "paired bootstrap; sign-flip test")


def mcnemar(won: int, lost: int) -> float:
    """Two-sided and exact: the pairs that differ are tosses of a fair coin."""
    return float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0


def _agresti_min(won: int, lost: int, n: int) -> Interval:
    b, c, total = won + 0.5, lost + 0.5, n + 2
    middle = (b - c) / total
    half = float(stats.norm.ppf((1 + LEVEL) / 2)) * sqrt((b + c) - (b - c) ** 2 / total) / total
    return Interval(max(-1.0, middle - half), min(1.0, middle + half))


def _sign_flip(change: np.ndarray, seed: int) -> float:
    moved = change[change != 0]
    if not len(moved):
        return 1.0
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (DRAWS, len(moved)))
    as_far = (np.abs(signs @ moved) >= abs(moved.sum()) - 1e-12).sum()
    return float((as_far + 1) / (DRAWS + 1))
