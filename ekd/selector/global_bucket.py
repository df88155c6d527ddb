"""The rows between two percentiles of all scores that were seen lately."""

from __future__ import annotations

from torch import Tensor, nn

from ekd.selector.bucket import Bucket
from ekd.selector.ring import Ring
from ekd.selector.segment import best_of_empty, check_scores, nearest


class GlobalBucket(nn.Module):
    """Keeps the scores between two percentiles of the last `size` ones, so that sequences give as many as fall inside.

        w_t = [Q(lower) <= s_t <= Q(upper) of the ring],  Q linear between ranks, the ring as it was before this batch

    A sequence with none keeps the row nearest to the middle of the two. Until the ring holds `warm_up` scores the
    percentiles are each sequence's own. Checkpoints carry the ring; on several ranks it holds the scores of all.

    Source: bucket with the ring of GLS (selector=global_threshold); not published.
    """

    def __init__(self, *, lower: float, upper: float, size: int, warm_up: int) -> None:
        super().__init__()
        self.bucket = Bucket(lower=lower, upper=upper, scope="sequence")
        self.ring = Ring(size=size, warm_up=warm_up)

    def forward(self, score: Tensor, sequence: Tensor) -> Tensor:
        """(R,), (R,) -> weight (R,), 0 or 1. Collective: every rank calls it, also with no rows."""
        check_scores(score)
        if self.ring.ready:
            low, high = self.ring.quantiles(self.bucket.lower, self.bucket.upper)
            exact = score.double()
            keep = (low <= exact) & (exact <= high)
            weight = best_of_empty(keep, nearest(exact, (low + high) / 2, sequence), sequence).to(score.dtype)
        else:
            weight = self.bucket(score, sequence)
        self.ring.push(score)
        return weight

    def extra_repr(self) -> str:
        return f"lower={self.bucket.lower}, upper={self.bucket.upper}"
