"""Random numbers that a resumed run draws again: each step's generator is seeded by (seed, step, rank)."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

GOLDEN = 0x9E3779B97F4A7C15  # splitmix64's increment


def rank_of_process() -> int:
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def mix(*numbers: int) -> int:
    """splitmix64 over several integers: neighbouring seeds, steps and ranks give unrelated streams."""
    state = 0
    for number in numbers:
        state = (state ^ (number & (2**64 - 1))) + GOLDEN & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        state ^= state >> 31
    return state


def uniform(count: int, like: Tensor, seed: int, step: int) -> Tensor:
    """(count,) float64 in [0, 1) on `like`'s device; drawn on the CPU, so that every device gets the same."""
    source = torch.Generator().manual_seed(mix(seed, step, rank_of_process()) >> 1)
    return torch.rand(count, generator=source, dtype=torch.float64).to(like.device)
