"""The rows with the highest score."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ekd.models.segments import rank, segments
from ekd.selector.segment import best_of_empty, check_percent, check_scope, check_scores, share


@dataclass(frozen=True, kw_only=True)
class TopK:
    """Exactly the ceil(k n / 100) highest of each sequence's n rows, at least 1; ties go to the earliest position.

        w_t = [rank of s_t, from 0 for the highest, < max(1, ceil(k n / 100))]

    With `scope="batch"` the rows of all sequences compete, and a sequence left with none keeps its highest row.

    Source: the EKD project's README (selector "ekd"); Tavor et al. 2026, "Rethinking Selective Knowledge
    Distillation" (SE-KD, top 20%), arXiv 2602.01395.
    """

    k_percent: float
    scope: str

    def __post_init__(self) -> None:
        check_percent(self.k_percent)
        check_scope(self.scope)

    def __call__(self, score: Tensor, sequence: Tensor) -> Tensor:
        """(R,), (R,) -> weight (R,), 0 or 1."""
        check_scores(score)
        runs = segments(sequence, self.scope)
        keep = rank(score, runs) < share(self.k_percent, runs.size)[runs.member]
        if self.scope == "batch":
            keep = best_of_empty(keep, score, sequence)
        return keep.to(score.dtype)
