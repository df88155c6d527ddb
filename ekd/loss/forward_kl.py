"""The mean of ln p - ln q under the teacher."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ForwardKL:
    """Covers every mode of the teacher. Never negative; zero, with zero gradient, at p = q.

        sum_j p_j (ln p_j - ln q_j)

    Source: Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.
    """

    def __call__(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """(N, K+1), (N, K+1) -> (N,) nats."""
        return (log_p.exp() * (log_p - log_q)).sum(-1)
