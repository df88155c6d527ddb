"""ln of a mixture of two distributions, from their logarithms."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def check_mix(name: str, value: float, lowest_is_allowed: bool) -> None:
    if not (0 <= value < 1 if lowest_is_allowed else 0 < value < 1):
        sign = "0 <=" if lowest_is_allowed else "0 <"
        raise ValueError(f"{name}={value}: a mixing weight needs {sign} {name} < 1, for example loss.{name}=0.1.")


def log_mix(log_a: Tensor, log_b: Tensor, share: float) -> Tensor:
    """ln(share a + (1 - share) b), share in [0, 1]; safe where both are empty."""
    first = math.log(share) if share > 0 else -math.inf
    second = math.log1p(-share) if share < 1 else -math.inf
    return torch.logaddexp(log_a + first, log_b + second)
