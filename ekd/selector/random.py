"""Rows chosen by chance: the control that every method must beat."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ekd.models.chance import uniform
from ekd.selector.segment import check_scores
from ekd.selector.topk import TopK


class Random(nn.Module):
    """As many rows as topk would take, uniformly; the score only has to be a number.

        w_t = [rank of u_t < max(1, ceil(k n / 100))],  u_t uniform, new at each step

    The step is a buffer: a resumed run goes on with the choices that it would have made. Ranks draw differently.

    Source: the control of Tavor et al. 2026 (SE-KD), arXiv 2602.01395.
    """

    step: Tensor

    def __init__(self, *, k_percent: float, seed: int, scope: str) -> None:
        super().__init__()
        self.topk = TopK(k_percent=k_percent, scope=scope)
        self.seed = seed
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, score: Tensor, sequence: Tensor) -> Tensor:
        """(R,), (R,) -> weight (R,), 0 or 1."""
        check_scores(score)
        draw = uniform(score.numel(), score, self.seed, int(self.step))
        self.step += 1
        return self.topk(draw, sequence).to(score.dtype)

    def extra_repr(self) -> str:
        return f"{self.topk}, seed={self.seed}"
