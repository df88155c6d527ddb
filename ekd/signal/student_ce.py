"""How little the student expected the token that came next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ekd.signal.view import student_ce
from ekd.types import Rows


@dataclass(frozen=True, kw_only=True)
class StudentCE:
    """The student's cross entropy, in nats.

        -ln q_t(y)

    Source: Wang et al. 2021, "Selective Knowledge Distillation for Neural Machine Translation", arXiv 2105.12967.
    """

    needs_student: ClassVar[bool] = True

    def __call__(self, rows: Rows) -> Tensor:
        """-> (R,) nats."""
        return student_ce(rows)
