"""How far the student is from covering the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ekd.models.rows import kl
from ekd.signal.view import log_p, log_q
from ekd.types import Rows


@dataclass(frozen=True, kw_only=True)
class KL:
    """Forward KL on the k+1 categories, in nats.

        KL(p_t, q_t) = sum_j p_j (ln p_j - ln q_j)

    Source: one of the metrics compared in Tavor et al. 2026, "Rethinking Selective Knowledge Distillation" (SE-KD),
    arXiv 2602.01395.
    """

    needs_student: ClassVar[bool] = True

    def __call__(self, rows: Rows) -> Tensor:
        """-> (R,) nats."""
        return kl(log_p(rows), log_q(rows))
