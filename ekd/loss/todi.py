"""Forward KL where the student gives too little, reverse KL where it gives too much, token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ToDi:
    """The weights w carry no gradient, as in the authors' code, so the value is KL(p, q) + KL(q, p) and the gradient
    is not.

        sum_j [w_j p_j (ln p_j - ln q_j) + (1 - w_j) q_j (ln q_j - ln p_j)],  w_j = sigmoid(ln p_j - ln q_j)

    Source: Jung et al. 2025, "ToDi: Token-wise Distillation via Fine-Grained Divergence Control", arXiv 2505.16297.
    """

    needs_density: ClassVar[bool] = True

    def __call__(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """(N, K+1), (N, K+1) -> (N,) nats."""
        ratio = log_p - log_q
        under = torch.sigmoid(ratio).detach()
        return (under * log_p.exp() * ratio - (1 - under) * log_q.exp() * ratio).sum(-1)
