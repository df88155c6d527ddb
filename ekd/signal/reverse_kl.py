"""How much the student says that the teacher would not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ekd.models.rows import kl
from ekd.signal.view import log_p, log_q
from ekd.types import Rows


@dataclass(frozen=True, kw_only=True)
class ReverseKL:
    """Reverse KL on the k+1 categories, in nats.

        KL(q_t, p_t) = sum_j q_j (ln q_j - ln p_j)

    Source: one of the metrics compared in Tavor et al. 2026, "Rethinking Selective Knowledge Distillation" (SE-KD),
    arXiv 2602.01395.
    """

    needs_student: ClassVar[bool] = True
    needs_density: ClassVar[bool] = True

    def __call__(self, rows: Rows) -> Tensor:
        """-> (R,) nats."""
        return kl(log_q(rows), log_p(rows))
