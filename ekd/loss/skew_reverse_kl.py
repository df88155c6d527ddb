"""Reverse KL to a mixture that holds a little of the student."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ekd.loss.mixture import check_mix, log_mix


@dataclass(frozen=True, kw_only=True)
class SkewReverseKL:
    """The mixture keeps the price bounded where the teacher has no mass. alpha = 0 is reverse KL.

        KL(q, (1 - alpha) p + alpha q)

    Source: Ko et al. 2024, "DistiLLM", arXiv 2402.03898.
    """

    alpha: float

    def __post_init__(self) -> None:
        check_mix("alpha", self.alpha, lowest_is_allowed=True)

    @property
    def needs_density(self) -> bool:
        return self.alpha == 0  # then it is reverse KL

    def __call__(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """(N, K+1), (N, K+1) -> (N,) nats."""
        return (log_q.exp() * (log_q - log_mix(log_q, log_p, self.alpha))).sum(-1)
