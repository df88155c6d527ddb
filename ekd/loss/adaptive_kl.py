"""Forward and reverse KL, mixed by where the student is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class AdaptiveKL:
    """Forward KL counts for the share of the gap that lies in the teacher's head, reverse KL for the rest.

    The head is the smallest set of named ids with at least `head` of the teacher's mass (the paper's definition; the
    authors' code leaves the id that crosses the border to the tail). "Everything else" is always tail. a carries no
    gradient, as in the authors' code.

        a KL(p, q) + (1 - a) KL(q, p),  a = g_head / (g_head + g_tail),  g = sum |p - q| over head or tail

    Source: Wu et al. 2025, "Rethinking Kullback-Leibler Divergence in Knowledge Distillation for LLMs" (AKL), arXiv
    2404.02657.
    """

    needs_density: ClassVar[bool] = True
    head: float

    def __post_init__(self) -> None:
        if not 0 < self.head < 1:
            raise ValueError(f"head={self.head}: the head's mass needs 0 < head < 1; the paper uses loss.head=0.5.")

    def __call__(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """(N, K+1), (N, K+1) -> (N,) nats."""
        p, q = log_p.exp(), log_q.exp()
        forward = (p * (log_p - log_q)).sum(-1)
        reverse = (q * (log_q - log_p)).sum(-1)
        share = self.share_of_head(p, q.detach())
        return share * forward + (1 - share) * reverse

    def share_of_head(self, p: Tensor, q: Tensor) -> Tensor:
        """(N, K+1), (N, K+1) -> a (N,) in [0, 1]; 1/2 where p = q."""
        gap = (p - q).abs()
        named, order = p[:, :-1].sort(dim=-1, descending=True, stable=True)
        before = named.cumsum(-1) - named
        in_head = (before < self.head) & (named > 0)
        head = (gap.gather(1, order) * in_head).sum(-1)
        whole = gap.sum(-1)
        return torch.where(whole > 0, head / whole, 0.5)
