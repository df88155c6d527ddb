"""How far teacher and student are apart, with an eye for rare tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ekd.signal.view import log_p, log_q
from ekd.types import Rows


@dataclass(frozen=True, kw_only=True)
class Hellinger:
    """Hellinger distance on the k+1 categories, from 0 to 1.

        sqrt(sum_j (sqrt p_j - sqrt q_j)^2 / 2)

    Source: the token difficulty of Xie et al. 2025, "LLM-Oriented Token-Adaptive Knowledge Distillation" (AdaKD),
    arXiv 2510.11615.
    """

    needs_student: ClassVar[bool] = True

    def __call__(self, rows: Rows) -> Tensor:
        """-> (R,) from 0 to 1."""
        gap = (log_p(rows) / 2).exp() - (log_q(rows) / 2).exp()
        return (gap.square().sum(-1) / 2).sqrt()
