"""How unsure the student is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ekd.signal.view import student
from ekd.types import Rows


@dataclass(frozen=True, kw_only=True)
class StudentEntropy:
    """The student's entropy in nats over its whole vocabulary, at temperature 1.

        H(q_t) = -sum_j q_t(j) ln q_t(j)

    Source: Tavor et al. 2026, "Rethinking Selective Knowledge Distillation" (SE-KD), arXiv 2602.01395.
    """

    needs_student: ClassVar[bool] = True

    def __call__(self, rows: Rows) -> Tensor:
        """-> (R,) nats."""
        return student(rows).entropy
