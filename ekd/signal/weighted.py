"""A weighted sum of signals."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from ekd.models.rows import top_of
from ekd.signal.scale import check_scale, scaled
from ekd.types import NeedsAgreement, NeedsContrast, NeedsDensity, Rows, Signal


@dataclass(frozen=True, kw_only=True)
class Weighted:
    """Any signals, each brought to a common scale per sequence, each with its weight, by name.

        sum_i w_i scale(s_i),  scale: z, min-max or none

    A negative weight turns a signal round. Needs the student's pass if one of its parts does.

    Source: Tavor et al. 2026, "Rethinking Selective Knowledge Distillation" (SE-KD), arXiv 2602.01395, whose best row
    is student entropy + KL.
    """

    signals: dict[str, Signal]
    weights: dict[str, float]
    normalise: str

    def __post_init__(self) -> None:
        check_scale(self.normalise)
        if self.signals.keys() != self.weights.keys() or not self.signals:
            raise ValueError(
                f"signals are named {sorted(self.signals)}, weights {sorted(self.weights)}: each signal needs a weight "
                "of the same name, and there must be one at least."
            )
        if not (all(map(math.isfinite, self.weights.values())) and any(self.weights.values())):
            raise ValueError(f"weights={self.weights}: they need to be finite, and not all 0.")
        learning = [name for name, signal in self.signals.items() if isinstance(signal, nn.Module)]
        if learning:
            raise ValueError(f"{', '.join(learning)} learns while it runs and cannot be part of a sum: use it alone.")

    @property
    def needs_student(self) -> bool:
        return any(signal.needs_student for signal in self.signals.values())

    @property
    def needs_density(self) -> bool:
        return any(isinstance(signal, NeedsDensity) and signal.needs_density for signal in self.signals.values())

    @property
    def needs_contrast(self) -> bool:
        return any(isinstance(signal, NeedsContrast) and signal.needs_contrast for signal in self.signals.values())

    @property
    def needs_agreement(self) -> bool:
        return any(isinstance(signal, NeedsAgreement) and signal.needs_agreement for signal in self.signals.values())

    @property
    def needs_top(self) -> int:
        return top_of(*self.signals.values())

    def __call__(self, rows: Rows) -> Tensor:
        """-> (R,)"""
        total = rows.teacher_entropy.new_zeros(len(rows.teacher_entropy))
        for name, signal in self.signals.items():
            total = total + self.weights[name] * scaled(signal(rows), rows.sequence, self.normalise)
        return total
