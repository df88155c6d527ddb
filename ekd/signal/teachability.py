"""Where the student is off, and the teacher speaks of what the student has in mind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ekd.models.segments import by_segment, segments
from ekd.signal.view import student
from ekd.types import Rows


@dataclass(frozen=True, kw_only=True)
class Teachability:
    """High where the teacher puts its mass on the student's own k likeliest ids S, but not as the student does: a gap
    that the student can close from where it is. Ids that the teacher's row does not name have no mass.

        norm(sum_S a (ln a - ln b)) norm(c),  c = sum_S p_t(j),  a = p_t / c,  b = q_t / sum_S q_t(j)

    norm: (x - min) / (max - min) per sequence, 1 where all are alike.

    Source: Wang et al. 2026, "Not All Disagreement Is Learnable: Token Teachability in On-Policy Distillation"
    (TA-OPD), arXiv 2605.26844, which keeps the top 5%; read: its abstract and somebody else's code of it (k = 16, and
    norm there is between the 5th and 95th percentile of the batch).
    """

    needs_student: ClassVar[bool] = True
    top: int

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ValueError(f"top={self.top}: the student's list needs top >= 1, for example signal.top=16.")

    @property
    def needs_top(self) -> int:
        return self.top

    def __call__(self, rows: Rows) -> Tensor:
        """-> (R,) from 0 to 1."""
        seen = student(rows)
        best, log_best = seen.top[:, : self.top], seen.log_top[:, : self.top]
        if best.shape[1] < min(self.top, rows.vocab):
            raise ValueError(
                f"rows.student names {best.shape[1]} of the student's ids and this signal reads {self.top}: fill it "
                f"with head.stats(..., top={self.top})."
            )
        inside = (rows.teacher_ids[:, :, None] == best[:, None, :]).any(-1)
        p = torch.where(inside, rows.teacher_logprobs[:, :-1].exp(), 0.0)
        c = p.sum(-1)
        a = p / c.clamp(min=1e-30)[:, None]
        log_b = seen.log_q[:, :-1] - log_best.logsumexp(-1, keepdim=True)
        far = torch.where(a > 0, a * (a.clamp(min=1e-30).log() - log_b), 0.0).sum(-1)
        return normed(far, rows.sequence) * normed(c, rows.sequence)


def normed(score: Tensor, sequence: Tensor) -> Tensor:
    """(R,) -> (R,) from 0 to 1 per sequence; a factor that tells no row from another is 1."""
    runs = segments(sequence)
    low, high = (by_segment(score, runs, how)[runs.member] for how in ("amin", "amax"))
    flat = high - low <= 1e-6 * (1 + low.abs())
    return torch.where(flat, 1.0, (score - low) / (high - low).clamp(min=1e-30))
