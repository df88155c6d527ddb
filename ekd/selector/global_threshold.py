"""The rows whose score is high among all that were seen lately."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ekd.selector.ranks import gathered
from ekd.selector.segment import best_of_empty, check_scores
from ekd.selector.topk import TopK


class GlobalThreshold(nn.Module):
    """Keeps the scores in the top k% of the last `size` ones, so that an easy sequence gives few rows, a hard one
    many.

        w_t = [s_t >= Q(1 - k/100) of the ring],  Q linear between ranks, the ring as it was before this batch

    A sequence with none keeps its highest row. Until the ring holds `warm_up` scores the choice is topk's, per
    sequence. The ring is a buffer: checkpoints carry it. On several ranks it holds the scores of all, and is the same
    on each.

    Source: GLS of Wang et al. 2021, "Selective Knowledge Distillation for Neural Machine Translation", arXiv
    2105.12967.
    """

    ring: Tensor
    pushed: Tensor

    def __init__(self, *, k_percent: float, size: int, warm_up: int) -> None:
        super().__init__()
        self.topk = TopK(k_percent=k_percent, scope="sequence")
        if not 1 <= warm_up <= size:
            raise ValueError(f"warm_up={warm_up}, size={size}: the ring needs 1 <= warm_up <= size scores.")
        self.size = size
        self.warm_up = warm_up
        # float32 kept as its bits: trainer.precision=bf16-true rounds every floating point buffer of a module
        self.register_buffer("ring", torch.zeros(size, dtype=torch.int32))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.long))

    def forward(self, score: Tensor, sequence: Tensor) -> Tensor:
        """(R,), (R,) -> weight (R,), 0 or 1. Collective: every rank calls it, also with no rows."""
        check_scores(score)
        held = min(int(self.pushed), self.size)
        if held < self.warm_up:
            weight = self.topk(score, sequence)
        else:
            keep = score.float() >= self.limit(held)
            weight = best_of_empty(keep, score, sequence).to(score.dtype)
        self.push(gathered(score.detach().float()))
        return weight

    def limit(self, held: int) -> Tensor:
        """The ring's (1 - k/100) quantile, a scalar."""
        ascending = self.ring.view(torch.float32)[:held].sort().values.double()
        place = (100 - self.topk.k_percent) * (held - 1) / 100
        below, above = ascending[int(place)], ascending[min(int(place) + 1, held - 1)]
        return (below + (above - below) * (place - int(place))).float()

    def push(self, scores: Tensor) -> None:
        """The oldest make room; of more than `size` scores the last ones stay."""
        place = torch.arange(len(scores), device=scores.device)[-self.size :]
        self.ring.view(torch.float32)[(self.pushed + place) % self.size] = scores[-self.size :]
        self.pushed += len(scores)

    def extra_repr(self) -> str:
        return f"k_percent={self.topk.k_percent}, size={self.size}, warm_up={self.warm_up}"
