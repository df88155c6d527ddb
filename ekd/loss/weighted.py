"""A weighted sum of losses."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ekd.types import Loss, NeedsDensity, PricesSpans


@dataclass(frozen=True, kw_only=True)
class Weighted:
    """Any losses, each with its weight, by name.

        sum_i w_i loss_i(p, q)

    Source: the usual mixture of objectives, e.g. forward and reverse KL in equal parts (Jeffreys' divergence).
    """

    losses: dict[str, Loss]
    weights: dict[str, float]

    def __post_init__(self) -> None:
        if self.losses.keys() != self.weights.keys() or not self.losses:
            raise ValueError(
                f"losses are named {sorted(self.losses)}, weights {sorted(self.weights)}: each loss needs a weight of "
                "the same name, and there must be one at least."
            )
        if not (all(0 <= w < math.inf for w in self.weights.values()) and sum(self.weights.values()) > 0):
            raise ValueError(f"weights={self.weights}: they need to be 0 or more, and not all 0.")
        if spans := [name for name, loss in self.losses.items() if isinstance(loss, PricesSpans)]:
            raise ValueError(
                f"loss={spans[0]} prices spans, and a sum each row: take it alone, or with student.alpha_ce"
            )

    @property
    def needs_density(self) -> bool:
        return any(isinstance(x, NeedsDensity) and x.needs_density and self.weights[n] for n, x in self.losses.items())

    def __call__(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """(N, K+1), (N, K+1) -> (N,) nats."""
        total = log_q.new_zeros(len(log_q))
        for name, loss in self.losses.items():
            total = total + self.weights[name] * loss(log_p, log_q)
        return total
