"""How much less sure the student is than the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ekd.signal.view import student
from ekd.types import Rows


@dataclass(frozen=True, kw_only=True)
class RelativeConfidence:
    """Above 1/2 where the student is the less certain of the two.

        sigmoid(H(q_t) - H(p_t))

    Source: Kim & Baek 2026, "Explain in Your Own Words" (TSD-KD), arXiv 2603.13260.
    """

    needs_student: ClassVar[bool] = True

    def __call__(self, rows: Rows) -> Tensor:
        """-> (R,) from 0 to 1."""
        return torch.sigmoid(student(rows).entropy - rows.teacher_entropy)
