"""Every row, the more the higher its score."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ekd.models.segments import by_segment, segments
from ekd.selector.segment import best_of_empty, check_scope, check_scores


@dataclass(frozen=True, kw_only=True)
class ScoreWeighted:
    """Every row of positive score, weighed by it. Per sequence (or batch, by `scope`):

        mean:    w_t = max(s_t, 0) / mean of max(s, 0),      so that the weights sum to n
        minmax:  w_t = (s_t - min s) / (max s - min s)

    Weights carry no gradient. Where all scores are alike (or, for mean, none is positive) every row counts 1;
    a sequence whose weights are all 0 keeps its highest row at 1.

    Source: Guo et al. 2024, "Leveraging logit uncertainty for better knowledge distillation", Scientific Reports 14.
    """

    normalise: str
    scope: str

    def __post_init__(self) -> None:
        if self.normalise not in ("mean", "minmax"):
            raise ValueError(f"normalise={self.normalise!r} is not known: choose mean or minmax.")
        check_scope(self.scope)

    def __call__(self, score: Tensor, sequence: Tensor) -> Tensor:
        """(R,), (R,) -> weight (R,), 0 or more."""
        check_scores(score)
        runs = segments(sequence, self.scope)
        exact = score.detach().double()
        low = by_segment(exact, runs, "amin")[runs.member]
        if self.normalise == "mean":
            part = exact.clamp(min=0)
            whole = by_segment(part, runs, "sum")[runs.member] / runs.size[runs.member]
        else:
            part = exact - low
            whole = by_segment(exact, runs, "amax")[runs.member] - low
        weight = torch.where(whole > 0, part / whole, 1.0)
        heard = weight > 0
        rescued = best_of_empty(heard, exact, sequence) & ~heard  # under scope=batch a sequence can have none
        return torch.where(rescued, 1.0, weight).to(score.dtype)
