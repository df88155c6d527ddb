"""Any loss, its extreme prices compressed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ekd.types import Loss, NeedsDensity, NeedsOwnText, PricesSpans


@dataclass(frozen=True, kw_only=True)
class SoftClamp:
    """A price D beyond `limit`, of either sign, grows by its logarithm: its gradient shrinks by limit / |D| and, unlike
    a clamp's, never to nothing. Below the limit nothing changes.

        D if |D| <= c, else sign(D) c (1 + ln(|D| / c)),  c = limit

    Source: after a summary of arXiv 2607.07050 and arXiv 2607.13399, which compress the extreme price of a token and
    keep its gradient; the logarithm is ours, and neither the papers nor their abstracts were read.
    """

    of: Loss
    limit: float

    def __post_init__(self) -> None:
        if not 0 < self.limit < math.inf:
            raise ValueError(f"limit={self.limit}: a price in nats needs limit > 0, for example loss.limit=5.")
        if isinstance(self.of, PricesSpans):
            raise ValueError(f"loss.of={self.of} prices spans, and a soft clamp each row: take it alone, or another")

    @property
    def needs_density(self) -> bool:
        return isinstance(self.of, NeedsDensity) and self.of.needs_density

    @property
    def needs_own_text(self) -> bool:
        return isinstance(self.of, NeedsOwnText) and self.of.needs_own_text

    def __call__(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """(N, K+1), (N, K+1) -> (N,) nats."""
        price = self.of(log_p, log_q)
        size = price.abs()
        over = size.clamp(min=self.limit) / self.limit  # 1 where the logarithm is not taken: its slope is finite there
        return torch.where(size > self.limit, price.sign() * self.limit * (1 + over.log()), price)
