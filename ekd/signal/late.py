"""Whether a row is past the beginning of its response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ekd.types import Rows


@dataclass(frozen=True, kw_only=True)
class Late:
    """A step, smoothed, from `floor` at the beginning to 1 at the end; `falling` turns the positions round. middle:
    where it is half way, width: how soft it is, both as shares of the response.

        floor + (1 - floor) sigmoid((x - middle) / width),  x = (t + 1/2) / n,  or 1 - x with falling

    Source: Liu et al. 2026, "When Are Teacher Tokens Reliable? Position-Weighted On-Policy Self-Distillation for
    Reasoning" (PW-OPSD), arXiv 2605.21606; read: its abstract and the authors' code, whose schedule the defaults are.
    """

    needs_student: ClassVar[bool] = False
    floor: float
    middle: float
    width: float
    falling: bool

    def __post_init__(self) -> None:
        if not 0 <= self.floor < 1:
            raise ValueError(f"floor={self.floor}: the least weight needs 0 <= floor < 1, for example 0.25.")
        if not (0 <= self.middle <= 1 and 0 < self.width <= 1):
            raise ValueError(
                f"middle={self.middle}, width={self.width}: both are shares of the response, and width is above 0."
            )

    def __call__(self, rows: Rows) -> Tensor:
        """-> (R,) from floor to 1."""
        place = (rows.position + 0.5) / rows.length
        place = 1 - place if self.falling else place
        return self.floor + (1 - self.floor) * torch.sigmoid((place - self.middle) / self.width)
