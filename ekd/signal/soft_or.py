"""Where the student is unsure, or sure and wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ekd.models.rows import kl
from ekd.signal.view import jsd, log_p, log_q, uncertainty
from ekd.types import Rows


@dataclass(frozen=True, kw_only=True)
class SoftOr:
    """High when either of two scores is: the student's uncertainty h and its distance d from the teacher.

    `bounds` divides both by their largest possible value, d = JSD / ln 2. `minmax` is the paper's: d = KL(q, p), both
    brought to 0 ... 1 over the batch, h after cutting its highest 2% off.

        h + d - h d,  h = H(q_t) / ln V

    Source: Xu et al. 2026, "TIP: Token Importance in On-Policy Distillation", arXiv 2604.14084.
    """

    needs_student: ClassVar[bool] = True
    scale: str

    def __post_init__(self) -> None:
        if self.scale not in ("bounds", "minmax"):
            raise ValueError(f"scale={self.scale!r} is not known: choose bounds or minmax.")

    @property
    def needs_density(self) -> bool:
        return self.scale == "minmax"  # holds a reverse KL

    def __call__(self, rows: Rows) -> Tensor:
        """-> (R,) from 0 to 1."""
        h = uncertainty(rows)
        if self.scale == "bounds":
            d = jsd(log_p(rows), log_q(rows)) / math.log(2)
        else:
            h = _minmax(h.clamp(max=_quantile(h, 0.98)))
            d = _minmax(kl(log_q(rows), log_p(rows)))
        return h + d - h * d


def _quantile(x: Tensor, q: float) -> Tensor:
    return x.sort().values[math.ceil(q * (len(x) - 1))] if len(x) else x.new_zeros(())


def _minmax(x: Tensor) -> Tensor:
    if not len(x):
        return x
    low, high = x.aminmax()
    return (x - low) / (high - low).clamp(min=1e-12)
