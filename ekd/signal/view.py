"""What signals read from the rows: log p, log q and the student's statistics, finite everywhere."""

from __future__ import annotations

from torch import Tensor

from ekd.types import Rows, Stats

EMPTY = -1e30  # ln of nothing, finite, so that p ln p is 0 without a special case


def student(rows: Rows) -> Stats:
    """The student's statistics. Raises ValueError where a signal asks and nobody filled them."""
    if rows.student is None:
        raise ValueError("rows.student is empty: this signal has needs_student=True, so fill it with head.stats first.")
    return rows.student


def log_p(rows: Rows) -> Tensor:
    """(R, K+1) the teacher's log mass at the training temperature, EMPTY where there is nothing."""
    return rows.teacher_logprobs.clamp(min=EMPTY)


def log_q(rows: Rows) -> Tensor:
    """(R, K+1) the student's log mass on the same categories, EMPTY where there is nothing."""
    return student(rows).log_q.clamp(min=EMPTY)
