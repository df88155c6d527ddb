"""Where in the response a row is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ekd.types import Rows


@dataclass(frozen=True, kw_only=True)
class Position:
    """Rises from the first response token to the last; `prefix` turns it round, so that topk keeps the beginning.

        t / n,  or 1 - t / n with prefix,  t = 0 ... n-1

    Source: prefix methods, e.g. Xie et al. 2026, "On the Position Bias of On-Policy Distillation" (IW-OPD), arXiv
    2606.22600.
    """

    needs_student: ClassVar[bool] = False
    prefix: bool

    def __call__(self, rows: Rows) -> Tensor:
        """-> (R,) from 0 to 1."""
        place = rows.position / rows.length
        return 1 - place if self.prefix else place
