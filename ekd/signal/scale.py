"""Scores of one sequence brought to a common scale, so that they can be added."""

from __future__ import annotations

import torch
from torch import Tensor

from ekd.models.segments import by_segment, segments

SCALES = ("z", "minmax", "none")


def check_scale(normalise: str) -> None:
    if normalise not in SCALES:
        raise ValueError(f"normalise={normalise!r} is not known: choose z, minmax or none.")


def scaled(score: Tensor, sequence: Tensor, normalise: str) -> Tensor:
    """score (R,), sequence (R,) ascending -> (R,), per sequence.

    z: (s - mean) / standard deviation; minmax: (s - min) / (max - min). A constant sequence becomes 0 in both.
    """
    if normalise == "none":
        return score
    runs = segments(sequence)
    member, size, blank = runs.member, runs.size, score.new_zeros(len(runs.size))
    if normalise == "minmax":
        low = by_segment(score, runs, "amin")
        width = by_segment(score, runs, "amax") - low
    else:
        low = blank.index_add(0, member, score) / size
        width = (blank.index_add(0, member, (score - low[member]) ** 2) / size).sqrt()
    # below rounding error of the scores themselves there is nothing to magnify
    flat = width[member] <= 1e-6 * (1 + low[member].abs())
    return torch.where(flat, 0.0, (score - low[member]) / width[member].clamp(min=1e-30))
