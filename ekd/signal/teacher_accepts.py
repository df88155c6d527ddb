"""Whether the teacher would pass the student's favourite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ekd.signal.view import student
from ekd.types import Rows


@dataclass(frozen=True, kw_only=True)
class TeacherAccepts:
    """1 where the student's most likely id is among the teacher's k most likely that the row names, else 0. Meant for
    selector=threshold: topk breaks its ties by position.

        [argmax q_t in top-k of p_t]

    Source: Huang et al. 2025, "SelecTKD", arXiv 2510.24021 (greedy top-k verification).
    """

    needs_student: ClassVar[bool] = True
    k: int

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k={self.k}: the teacher's list needs k >= 1; the paper uses signal.k=5.")

    def __call__(self, rows: Rows) -> Tensor:
        """-> (R,) 0 or 1."""
        best = rows.teacher_logprobs[:, :-1].topk(min(self.k, rows.teacher_ids.shape[1]), dim=-1).indices
        accepted = rows.teacher_ids.gather(1, best) == student(rows).argmax[:, None]
        return accepted.any(-1).to(rows.teacher_logprobs.dtype)
