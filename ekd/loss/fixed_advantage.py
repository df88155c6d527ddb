"""A control for on-policy methods: the student's own tokens are pushed by one number, and nobody is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FixedAdvantage:
    """The teacher takes no part in it: what it gains, a teacher has not taught. advantage: below 0 pushes down.

        -A ln q(y),  A = advantage

    With selector=topk signal=student_ce it pushes down tokens that the student itself found unlikely.

    Source: the control of arXiv 2608.31046 (a fixed negative advantage for tokens of low probability).
    """

    needs_own_text: ClassVar[bool] = True
    advantage: float

    def __post_init__(self) -> None:
        if not self.advantage or abs(self.advantage) == float("inf"):
            raise ValueError(f"loss.advantage is a number other than 0, not {self.advantage}")

    def __call__(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """(N, K+1), (N, K+1) -> (N,)."""
        return -self.advantage * log_q[:, 0]
