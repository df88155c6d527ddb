"""Reverse KL, and forward KL as well where the teacher is unsure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class EntropyGated:
    """On confident rows the student follows the teacher's mode; on open ones it must also cover the alternatives.

    H is taken over the k+1 categories, so it is a lower bound of the teacher's entropy (what is inside "everything
    else" is not seen), at the training temperature.

        KL(q, p) + [H(p) >= tau] KL(p, q)

    Source: Jin et al. 2026, "Entropy-Aware On-Policy Distillation of Language Models" (EOPD), arXiv 2603.07079.
    """

    needs_density: ClassVar[bool] = True
    tau: float

    def __post_init__(self) -> None:
        if not self.tau >= 0:
            raise ValueError(f"tau={self.tau}: an entropy in nats needs tau >= 0; the authors use loss.tau=0.8.")

    def __call__(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """(N, K+1), (N, K+1) -> (N,) nats."""
        p, q = log_p.exp(), log_q.exp()
        unsure = -(p * log_p).sum(-1) >= self.tau
        reverse = (q * (log_q - log_p)).sum(-1)
        forward = (p * (log_p - log_q)).sum(-1)
        return reverse + unsure * forward
