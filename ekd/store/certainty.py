"""For which tokens a selector's decision is certain although their entropies are known only between bounds."""

from __future__ import annotations

import numpy as np

from ekd.types import Trace


def bounds(trace: Trace, vocab: int) -> tuple[np.ndarray, np.ndarray]:
    """What the rows alone say of their entropies, in nats: least (tail on one id), most (tail spread evenly)."""
    first = np.cumsum(trace.counts) - trace.counts
    logprobs, log_tail = trace.logprobs.astype(np.float64), trace.log_tail.astype(np.float64)
    least = np.add.reduceat(entropy_terms(logprobs), first) + entropy_terms(log_tail)
    return least, least + np.exp(log_tail) * np.log(np.maximum(vocab - trace.counts, 1))


def entropy_terms(logs: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(logs), -np.exp(logs) * np.where(np.isfinite(logs), logs, 0), 0)


def topk(least: np.ndarray, most: np.ndarray, percent: float) -> np.ndarray:
    """(n,) bool: whatever the true scores, the token is (or is not) among the ceil(percent n / 100) highest."""
    n = len(least)
    keep = max(int(np.ceil(percent * n / 100)), 1)
    may_beat = n - np.searchsorted(np.sort(most), least, "left") - 1  # all but the token itself
    must_beat = n - np.searchsorted(np.sort(least), most, "right")
    return (may_beat < keep) | (must_beat >= keep)


def bucket(least: np.ndarray, most: np.ndarray, lower: float, upper: float) -> np.ndarray:
    """(n,) bool: the token is surely inside, or surely outside, the percentiles lower ... upper of the true scores.

    A quantile grows with every score, so the quantiles of the bounds enclose it.
    """
    low, high = np.percentile(least, [lower, upper]), np.percentile(most, [lower, upper])
    inside = (least >= high[0]) & (most <= low[1])
    sure: np.ndarray = inside | (most < low[0]) | (least > high[1])
    return sure
