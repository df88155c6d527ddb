"""What signals read from the rows: log p, log q and the student's statistics, finite everywhere."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ekd.models.logits import EMPTY
from ekd.models.rows import kl
from ekd.types import Rows, Stats


def student(rows: Rows) -> Stats:
    """The student's statistics. Raises ValueError where a signal asks and nobody filled them."""
    if rows.student is None:
        raise ValueError("rows.student is empty: this signal has needs_student=True, so fill it with head.stats first.")
    return rows.student


def log_p(rows: Rows) -> Tensor:
    """(R, K+1) the teacher's log mass, EMPTY where there is nothing."""
    return rows.teacher_logprobs.clamp(min=EMPTY)


def log_q(rows: Rows) -> Tensor:
    """(R, K+1) the student's log mass on the same categories, EMPTY where there is nothing."""
    return student(rows).log_q.clamp(min=EMPTY)


def teacher_ce(rows: Rows) -> Tensor:
    """(R,) -ln p(y), nats."""
    return -log_p(rows)[:, 0]


def student_ce(rows: Rows) -> Tensor:
    """(R,) -ln q(y), nats."""
    return -log_q(rows)[:, 0]


def jsd(log_a: Tensor, log_b: Tensor) -> Tensor:
    """(R, K+1), (R, K+1) -> Jensen-Shannon (R,), from 0 to ln 2."""
    log_m = torch.logaddexp(log_a, log_b) - math.log(2)
    return (kl(log_a, log_m) + kl(log_b, log_m)) / 2


def uncertainty(rows: Rows) -> Tensor:
    """(R,) the student's entropy as a share of the largest possible, H(q) / ln V."""
    return student(rows).entropy / math.log(rows.vocab)
