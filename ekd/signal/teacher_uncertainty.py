"""What the teacher left for other tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ekd.signal.view import teacher_ce
from ekd.types import Rows


@dataclass(frozen=True, kw_only=True)
class TeacherUncertainty:
    """High where the teacher itself would often have said something else.

        1 - p_t(y)

    Source: Zhong et al. 2024, "Revisiting Knowledge Distillation for Autoregressive Language Models" (AT-KD), arXiv
    2402.11890.
    """

    needs_student: ClassVar[bool] = False
    needs_density: ClassVar[bool] = True

    def __call__(self, rows: Rows) -> Tensor:
        """-> (R,) from 0 to 1."""
        return -torch.expm1(-teacher_ce(rows))
