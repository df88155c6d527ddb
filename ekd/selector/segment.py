"""What selectors check, and how they take shares and quantiles of each segment (see `ekd.models.segments`)."""

from __future__ import annotations

import torch
from torch import Tensor

from ekd.models.segments import Segments, by_score, by_segment, rank, segments

SCOPES = ("sequence", "batch")


def check_scope(scope: str) -> None:
    if scope not in SCOPES:
        raise ValueError(
            f"scope={scope!r} is not known: choose sequence (rows compete within their own) or batch; for "
            "percentiles over the whole run take selector=global_threshold or selector=global_bucket."
        )


def check_percent(k_percent: float) -> None:
    if not 0 < k_percent <= 100:
        raise ValueError(f"k_percent={k_percent} must be above 0 and at most 100: 20 keeps a fifth of the rows.")


def check_scores(score: Tensor) -> None:
    """A selector cannot rank what is not a number."""
    if not bool(torch.isfinite(score).all()):
        bad = int((~torch.isfinite(score)).sum())
        raise ValueError(
            f"{bad} of {score.numel()} scores are infinite or not a number, and rows are ranked by finite scores only: "
            "look for infinite teacher logprobs or an overflow in the student, or choose another signal."
        )


def share(k_percent: float, size: Tensor) -> Tensor:
    """ceil(k n / 100), at least 1: (S,) -> (S,). The 1e-9 forgives binary fractions (1.1 * 3000 is just above 3300)."""
    return torch.ceil(k_percent * size.double() / 100 - 1e-9).clamp(min=1).long()


def quantiles(score: Tensor, runs: Segments, *percents: float) -> list[Tensor]:
    """(S,) float64 for each percent: linear interpolation between the two nearest ranks of a segment, as in numpy."""
    ascending = score[by_score(score, runs, descending=False)].double()
    found = []
    for percent in percents:
        place = percent * (runs.size - 1).double() / 100
        below, above = (ascending[runs.start + side.long()] for side in (place.floor(), place.ceil()))
        found.append(below + (above - below) * (place - place.floor()))
    return found


def best_of_empty(keep: Tensor, score: Tensor, sequence: Tensor) -> Tensor:
    """keep (R,) bool -> the same, with the highest row added to each sequence that has none: no text is left out of
    training because all of it is easy.
    """
    runs = segments(sequence)
    empty = torch.zeros_like(runs.size).index_add_(0, runs.member, keep.long()) == 0
    return keep | ((rank(score, runs) == 0) & empty[runs.member])


def nearest(score: Tensor, middle: Tensor, sequence: Tensor) -> Tensor:
    """(R,) float64: 1 for the rows of each sequence that are nearest to `middle`, 0 for the others.

    Two rows at one distance are both nearest, whatever the rounding of `middle`, often halfway between two scores.
    """
    runs, far = segments(sequence), torch.abs(score - middle)
    closest = by_segment(far, runs, "amin")[runs.member]
    return (far <= closest * (1 + 1e-9) + 1e-12 * (score.abs() + middle.abs())).double()
