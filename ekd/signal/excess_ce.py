"""How much more the next token cost the student than the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ekd.signal.view import student_ce, teacher_ce
from ekd.types import Rows


@dataclass(frozen=True, kw_only=True)
class ExcessCE:
    """Rho-1's excess loss, with the teacher as the reference model, in nats; negative where the student is better.

        CE_s - CE_t

    Source: Lin et al. 2024, "Rho-1: Not All Tokens Are What You Need", arXiv 2404.07965.
    """

    needs_student: ClassVar[bool] = True
    needs_density: ClassVar[bool] = True

    def __call__(self, rows: Rows) -> Tensor:
        """-> (R,) nats."""
        return student_ce(rows) - teacher_ce(rows)
