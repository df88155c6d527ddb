"""How much worse the student predicts the next token than the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ekd.signal.view import student_ce, teacher_ce, uncertainty
from ekd.types import Rows


@dataclass(frozen=True, kw_only=True)
class CERatio:
    """High where the teacher knew and the student did not. `entropy` brings in the student's uncertainty h = H(q_t) /
    ln V.

        CE_s / (CE_t + 1e-6),  times h,  or plus h

    Source: He et al. 2025, "DA-KD" (ICML); the variants: Tavor et al. 2026, "Rethinking Selective Knowledge
    Distillation" (SE-KD), arXiv 2602.01395.
    """

    needs_student: ClassVar[bool] = True
    needs_density: ClassVar[bool] = True
    entropy: str

    def __post_init__(self) -> None:
        if self.entropy not in ("none", "times", "plus"):
            raise ValueError(f"entropy={self.entropy!r} is not known: choose none, times or plus.")

    def __call__(self, rows: Rows) -> Tensor:
        """-> (R,)"""
        ratio = student_ce(rows) / (teacher_ce(rows) + 1e-6)
        if self.entropy == "times":
            return ratio * uncertainty(rows)
        return ratio + uncertainty(rows) if self.entropy == "plus" else ratio
