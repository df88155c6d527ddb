"""How far teacher and student are apart, bounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ekd.signal.view import jsd, log_p, log_q
from ekd.types import Rows


@dataclass(frozen=True, kw_only=True)
class JSD:
    """Jensen-Shannon divergence on the k+1 categories, from 0 to ln 2.

        [KL(p_t, m) + KL(q_t, m)] / 2,  m = (p_t + q_t) / 2

    Source: Lin 1991, "Divergence measures based on the Shannon entropy".
    """

    needs_student: ClassVar[bool] = True

    def __call__(self, rows: Rows) -> Tensor:
        """-> (R,) from 0 to ln 2."""
        return jsd(log_p(rows), log_q(rows))
