"""Every row: ordinary distillation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Vanilla:
    """Every row counts the same; the score is not looked at.

        w_t = 1

    Source: Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.
    """

    def __call__(self, score: Tensor, sequence: Tensor) -> Tensor:
        """(R,), (R,) -> weight (R,) of ones."""
        return torch.ones_like(score)
