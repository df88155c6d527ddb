"""The rows whose score is high among all that were seen lately."""

from __future__ import annotations

from torch import Tensor, nn

from ekd.selector.ring import Ring
from ekd.selector.segment import best_of_empty, check_scores
from ekd.selector.topk import TopK


class GlobalThreshold(nn.Module):
    """Keeps the scores in the top k% of the last `size` ones, so that an easy sequence gives few rows, a hard one many.

        w_t = [s_t >= Q(1 - k/100) of the ring],  Q linear between ranks, the ring as it was before this batch

    A sequence with none keeps its highest row. Until the ring holds `warm_up` scores the choice is topk's, per
    sequence. Checkpoints carry the ring; on several ranks it holds the scores of all, and is the same on each.

    Source: GLS of Wang et al. 2021, "Selective Knowledge Distillation for Neural Machine Translation",
    arXiv 2105.12967.
    """

    def __init__(self, *, k_percent: float, size: int, warm_up: int) -> None:
        super().__init__()
        self.topk = TopK(k_percent=k_percent, scope="sequence")
        self.ring = Ring(size=size, warm_up=warm_up)

    def forward(self, score: Tensor, sequence: Tensor) -> Tensor:
        """(R,), (R,) -> weight (R,), 0 or 1. Collective: every rank calls it, also with no rows."""
        check_scores(score)
        if self.ring.ready:
            # the ring of before this batch: a row is not compared with itself, and every rank has the same limit
            (limit,) = self.ring.quantiles(100 - self.topk.k_percent)
            weight = best_of_empty(score.double() >= limit, score, sequence).to(score.dtype)
        else:
            weight = self.topk(score, sequence)
        self.ring.push(score)
        return weight

    def extra_repr(self) -> str:
        return f"k_percent={self.topk.k_percent}"
