"""The generalised Jensen-Shannon divergence."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ekd.loss.mixture import check_mix, log_mix


@dataclass(frozen=True, kw_only=True)
class JSD:
    """Between forward KL (divided by beta, as beta falls to 0) and reverse KL (divided by 1 - beta, as beta rises to
    1).

    Never negative, bounded; zero, with zero gradient, at p = q.

        beta KL(p, m) + (1 - beta) KL(q, m),  m = beta p + (1 - beta) q

    Source: Agarwal et al. 2024, "On-Policy Distillation of Language Models" (GKD), arXiv 2306.13649.
    """

    beta: float

    def __post_init__(self) -> None:
        check_mix("beta", self.beta, lowest_is_allowed=False)

    def __call__(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """(N, K+1), (N, K+1) -> (N,) nats."""
        log_m = log_mix(log_p, log_q, self.beta)
        of_p = (log_p.exp() * (log_p - log_m)).sum(-1)
        of_q = (log_q.exp() * (log_q - log_m)).sum(-1)
        return self.beta * of_p + (1 - self.beta) * of_q
