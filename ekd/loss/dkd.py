"""KL taken apart: the next token against the rest, and the rest among itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

NOTHING = -1e20  # empty categories hold about -1e30; no log mass comes near


@dataclass(frozen=True, kw_only=True)
class DKD:
    """The parts of KL(p, q) = first + (1 - p_y) second, each with a weight of its own, so that a confident teacher
    does not silence the second. Where the teacher has nothing but y the second part is 0.

        alpha KL([p_y, 1 - p_y], [q_y, 1 - q_y]) + beta KL(p without y, q without y)

    Source: Zhao et al. 2022, "Decoupled Knowledge Distillation", arXiv 2203.08679.
    """

    alpha: float
    beta: float

    def __post_init__(self) -> None:
        if not (0 <= self.alpha < math.inf and 0 <= self.beta < math.inf and self.alpha + self.beta > 0):
            raise ValueError(
                f"alpha={self.alpha}, beta={self.beta}: weights need to be 0 or more, and not both 0; "
                "the paper uses loss.alpha=1 loss.beta=8."
            )

    def __call__(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """(N, K+1), (N, K+1) -> (N,) nats."""
        rest_p, rest_q = log_p[:, 1:].logsumexp(-1), log_q[:, 1:].logsumexp(-1)
        first = log_p[:, 0].exp() * (log_p[:, 0] - log_q[:, 0]) + rest_p.exp() * (rest_p - rest_q)
        among_p, among_q = log_p[:, 1:] - rest_p[:, None], log_q[:, 1:] - rest_q[:, None]
        known = rest_p > NOTHING
        among_p = torch.where(known[:, None], among_p, among_q.detach())
        second = (among_p.exp() * (among_p - among_q)).sum(-1)
        return self.alpha * first + self.beta * torch.where(known, second, 0.0)
