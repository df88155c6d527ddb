"""The highest rows, fewer of them while the loss falls."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ekd.models.ranks import total
from ekd.selector.segment import check_percent
from ekd.selector.topk import TopK
from ekd.types import Rows


class Adaptive(nn.Module):
    """topk whose share follows the moving average of the loss: it narrows while the student gets better, and widens
    again when it gets worse.

        m <- decay m + (1 - decay) loss;   after warm_up steps  r = m, and then
        m < (1 - change) r:  k <- max(lowest, k (1 - by)),  r <- m
        m > (1 + change) r:  k <- min(100, k (1 + by)),     r <- m

    k, m, r and the number of steps are buffers; the loss is that of all ranks, so they are the same on each.

    Source: LATF of Xie et al. 2025, "LLM-Oriented Token-Adaptive Knowledge Distillation" (AdaKD), arXiv 2510.11615,
    with the defaults of the authors' code. Its per-token temperature (IDTS) is not part of a selector.
    """

    memory: Tensor
    seen: Tensor

    def __init__(
        self, *, k_percent: float, lowest: float, by: float, change: float, decay: float, warm_up: int, scope: str
    ) -> None:
        super().__init__()
        check_percent(k_percent)
        if not 0 < lowest <= k_percent:
            raise ValueError(f"lowest={lowest}: the floor of k needs 0 < lowest <= k_percent={k_percent}.")
        if not (0 < by < 1 and 0 < change < 1 and 0 <= decay < 1):
            raise ValueError(f"by={by}, change={change}, decay={decay}: all three are shares below 1 (decay may be 0).")
        if warm_up < 1:
            raise ValueError(f"warm_up={warm_up}: the loss needs at least 1 step before it can be compared.")
        TopK(k_percent=k_percent, scope=scope)
        self.lowest, self.by, self.change, self.decay = lowest, by, change, decay
        self.warm_up, self.scope = warm_up, scope
        # k, m, r in float64, kept as their bits: trainer.precision=bf16-true rounds every floating point buffer
        self.register_buffer("memory", torch.tensor([k_percent, 0.0, 0.0], dtype=torch.float64).view(torch.int64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    @property
    def k_percent(self) -> float:
        return float(self.memory.view(torch.float64)[0])

    def forward(self, score: Tensor, sequence: Tensor) -> Tensor:
        """(R,), (R,) -> weight (R,), 0 or 1."""
        return TopK(k_percent=self.k_percent, scope=self.scope)(score, sequence)

    def learn(self, rows: Rows, weight: Tensor, price: Tensor) -> None:
        """weight (R,), price (R,). Collective: every rank calls it, also with no rows."""
        paid = total(torch.stack([(weight * price).sum(), weight.sum()]).double())
        if paid[1] == 0:
            return
        k, mean, reference = self.memory.view(torch.float64).tolist()
        loss = float(paid[0] / paid[1])
        mean = self.decay * mean + (1 - self.decay) * loss if self.seen > 0 else loss
        self.seen += 1
        if self.seen == self.warm_up:
            reference = mean
        elif self.seen > self.warm_up:
            if mean < (1 - self.change) * reference:
                k, reference = max(self.lowest, k * (1 - self.by)), mean
            elif mean > (1 + self.change) * reference:
                k, reference = min(100.0, k * (1 + self.by)), mean
        self.memory.view(torch.float64).copy_(torch.tensor([k, mean, reference], dtype=torch.float64))

    def extra_repr(self) -> str:
        return (
            f"k_percent={self.k_percent}, lowest={self.lowest}, by={self.by}, change={self.change}, scope={self.scope}"
        )
