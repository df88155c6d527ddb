"""What a micro-batch came to, as numbers that may be added up over micro-batches and ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from ekd.types import Importance, Rows, Selector


def count_batch(selector: Selector, total: Tensor, weight: Tensor, rows: Rows) -> Tensor:
    """(6,) of one micro-batch: what divides, price, rows supervised, rows offered; of the valid those chosen, and
    all. The weight that was paid for divides, unless the selector's are importance weights: these make a *sum*
    right on average, so its own number of rows divides, and each scored row stands for one.
    """
    paid = weight > 0  # a weight is what a row counts; rows are counted beside it, for a budget of tokens
    whole = weight
    if isinstance(selector, Importance) and selector.importance:
        whole = torch.where(rows.valid, 1.0, weight)
    counts = [paid.sum(), torch.tensor(len(paid), device=paid.device), (paid & rows.valid).sum(), rows.valid.sum()]
    return torch.stack([whole.sum(), total.to(weight.dtype), *(count.to(weight.dtype) for count in counts)])
