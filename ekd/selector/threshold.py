"""The rows whose score reaches a fixed value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ekd.selector.segment import best_of_empty, check_scores


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A row counts fully when its score reaches `at_least`, and by `below` otherwise (0: not at all).

        w_t = 1 if s_t >= at_least, else below

    The highest row of each sequence counts fully in any case. Meant for scores with a scale of their own: whether the
    teacher accepts a token, a bandit's confidence bound, a probability.

    Source: Huang et al. 2025, "SelecTKD", arXiv 2510.24021 (below = 0.01); LinUCB's choice, Li et al. 2010, arXiv
    1003.0146.
    """

    at_least: float
    below: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.at_least):
            raise ValueError(f"at_least={self.at_least}: the threshold needs to be a finite score.")
        if not 0 <= self.below < 1:
            raise ValueError(f"below={self.below}: the other rows' weight needs 0 <= below < 1, 0 to leave them out.")

    def __call__(self, score: Tensor, sequence: Tensor) -> Tensor:
        """(R,), (R,) -> weight (R,), 1 or `below`."""
        check_scores(score)
        keep = best_of_empty(score >= self.at_least, score, sequence)
        return torch.where(keep, 1.0, self.below).to(score.dtype)
