"""How little the teacher expected the token that came next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ekd.signal.view import teacher_ce
from ekd.types import Rows


@dataclass(frozen=True, kw_only=True)
class TeacherCE:
    """The teacher's cross entropy, in nats.

        -ln p_t(y)

    Source: one of the metrics compared in Tavor et al. 2026, "Rethinking Selective Knowledge Distillation" (SE-KD),
    arXiv 2602.01395.
    """

    needs_student: ClassVar[bool] = False
    needs_density: ClassVar[bool] = True

    def __call__(self, rows: Rows) -> Tensor:
        """-> (R,) nats."""
        return teacher_ce(rows)
