"""Total variation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TVD:
    """The largest difference in probability that the two give to any set of tokens; between 0 and 1.

        sum_j |p_j - q_j| / 2

    Source: Wen et al. 2023, "f-Divergence Minimization for Sequence-Level Knowledge Distillation", arXiv 2307.15190.
    """

    def __call__(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """(N, K+1), (N, K+1) -> (N,) nats."""
        return (log_p.exp() - log_q.exp()).abs().sum(-1) / 2
