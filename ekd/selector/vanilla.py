"""Every row: ordinary distillation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ekd.selector.segment import check_scores


@dataclass(frozen=True, kw_only=True)
class Vanilla:
    """Every row counts the same; the score only has to be a number.

        w_t = 1

    Source: Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.
    """

    def __call__(self, score: Tensor, sequence: Tensor) -> Tensor:
        """(R,), (R,) -> weight (R,) of ones."""
        check_scores(score)
        return torch.ones_like(score)
