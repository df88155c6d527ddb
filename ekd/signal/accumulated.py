"""How little the two models have differed so far in the sequence."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ekd.models.rows import top_of
from ekd.models.segments import by_segment, segments
from ekd.types import NeedsAgreement, NeedsContrast, NeedsDensity, Rows, Signal


@dataclass(frozen=True, kw_only=True)
class Accumulated:
    """Falls from floor + 1 at the first row towards floor, with the share of its sequence's discrepancy that lies
    before a row; `rising` turns it round. d is the size of any signal: |ln p(y) - ln q(y)| of excess_ce.

        floor + 1 - D_t / D_n,  or floor + D_t / D_n with rising,  D_t = sum_{i < t} |d_i|;  floor + 1 where D_n = 0

    Source: Xie et al. 2026, "On the Position Bias of On-Policy Distillation" (IW-OPD), arXiv 2606.22600; read: its
    abstract and the formula on the authors' project page, where floor is 1 and the text is the student's own.
    """

    of: Signal
    floor: float
    rising: bool

    def __post_init__(self) -> None:
        if not 0 <= self.floor < math.inf:
            raise ValueError(f"floor={self.floor}: the least weight needs floor >= 0; the authors use signal.floor=1.")
        if isinstance(self.of, nn.Module):
            raise ValueError(f"signal.of={self.of} learns while it runs and cannot be added up: take e.g. kl or jsd.")

    @property
    def needs_student(self) -> bool:
        return self.of.needs_student

    @property
    def needs_density(self) -> bool:
        return isinstance(self.of, NeedsDensity) and self.of.needs_density

    @property
    def needs_contrast(self) -> bool:
        return isinstance(self.of, NeedsContrast) and self.of.needs_contrast

    @property
    def needs_agreement(self) -> bool:
        return isinstance(self.of, NeedsAgreement) and self.of.needs_agreement

    @property
    def needs_top(self) -> int:
        return top_of(self.of)

    def __call__(self, rows: Rows) -> Tensor:
        """-> (R,) from floor to floor + 1."""
        score, runs = self.of(rows), segments(rows.sequence)
        step = score.double().abs()
        before = step.cumsum(0) - step  # of all sequences; less what it was where this one began
        sofar = (before - before[runs.start][runs.member]).clamp(min=0)
        whole = by_segment(step, runs, "sum")[runs.member]
        share = torch.where(whole > 0, sofar / whole, 0.0)
        return (self.floor + (share if self.rising else 1 - share)).to(score.dtype)
