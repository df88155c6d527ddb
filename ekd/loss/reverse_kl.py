"""The mean of ln q - ln p under the student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ReverseKL:
    """Seeks a mode of the teacher. Never negative; zero, with zero gradient, at p = q.

        sum_j q_j (ln q_j - ln p_j)

    Source: Gu et al. 2024, "MiniLLM", arXiv 2306.08543.
    """

    needs_density: ClassVar[bool] = True

    def __call__(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """(N, K+1), (N, K+1) -> (N,) nats."""
        return (log_q.exp() * (log_q - log_p)).sum(-1)
