"""The rows between two percentiles of the score."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ekd.models.segments import segments
from ekd.selector.segment import best_of_empty, check_scope, check_scores, nearest, quantiles


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """The rows whose score lies between two percentiles of their sequence, both ends included.

        w_t = [Q(lower) <= s_t <= Q(upper)],  Q linear between ranks

    A sequence with no row in between (a short one) keeps the row nearest to the middle of the two,
    the earliest in doubt. Ties are all in or all out: a band inside a half of equal scores takes that half, not its
    tenth. Runs and reports say the share that was taken, which is the one a random control needs. With `scope="batch"`
    the percentiles are those of all rows of the batch.

    Source: the EKD project's README (selector "bucket").
    """

    lower: float
    upper: float
    scope: str

    def __post_init__(self) -> None:
        if not 0 <= self.lower < self.upper <= 100:
            raise ValueError(
                f"lower={self.lower}, upper={self.upper}: percentiles need 0 <= lower < upper <= 100, "
                "for example selector.lower=70 selector.upper=80."
            )
        check_scope(self.scope)

    def __call__(self, score: Tensor, sequence: Tensor) -> Tensor:
        """(R,), (R,) -> weight (R,), 0 or 1."""
        check_scores(score)
        runs = segments(sequence, self.scope)
        low, high = (q[runs.member] for q in quantiles(score, runs, self.lower, self.upper))
        exact = score.double()  # as the quantiles: rounded, one that is a row's own score could leave that row out
        keep = (low <= exact) & (exact <= high)
        return best_of_empty(keep, nearest(exact, (low + high) / 2, sequence), sequence).to(score.dtype)
