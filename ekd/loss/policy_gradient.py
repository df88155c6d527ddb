"""On-policy distillation as a policy gradient: the sampled token alone, with the teacher as its reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PolicyGradient:
    """On the student's own text its gradient is, on average, that of the reverse KL, none through the top-k.

        -A ln q(y),  A = ln p(y) - ln q(y) without gradient

    What it is worth as a number: the reward's share of the cost, which may be of either sign. On anybody else's text it
    is no gradient of a distance: it needs source=rounds.

    Source: the sampled-token form of on-policy distillation, Gu et al. 2024 (MiniLLM), arXiv 2306.08543, eq. 2.
    """

    needs_density: ClassVar[bool] = True
    needs_own_text: ClassVar[bool] = True

    def __call__(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """(N, K+1), (N, K+1) -> (N,)."""
        reward = (log_p[:, 0] - log_q[:, 0]).detach()
        return -reward * log_q[:, 0]
