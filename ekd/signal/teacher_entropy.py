"""How unsure the teacher is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ekd.types import Rows


@dataclass(frozen=True, kw_only=True)
class TeacherEntropy:
    """The teacher's entropy in nats, as the trace holds it (exact, or the midpoint of its bounds).

        H(p_t) = -sum_j p_t(j) ln p_t(j)

    Source: the EKD project's README.
    """

    needs_student: ClassVar[bool] = False

    def __call__(self, rows: Rows) -> Tensor:
        """-> (R,) nats, temperature 1."""
        return rows.teacher_entropy
