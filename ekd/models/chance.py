"""Random numbers that a resumed run draws again: each step's generator is seeded by (seed, step, rank)."""

from __future__ import annotations

import torch
from torch import Tensor

from ekd.models.ranks import rank_of_process

BITS = 2**64 - 1


def mix(*numbers: int) -> int:
    """splitmix64 over several integers: neighbouring seeds, steps and ranks give unrelated streams."""
    state = 0
    for number in numbers:
        state = ((state ^ (number & BITS)) + 0x9E3779B97F4A7C15) & BITS
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & BITS
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & BITS
        state ^= state >> 31
    return state


def uniform(count: int, like: Tensor, seed: int, step: int) -> Tensor:
    """(count,) float64 in [0, 1) on `like`'s device; drawn on the CPU, so that every device gets the same."""
    source = torch.Generator().manual_seed(mix(seed, step, rank_of_process()) >> 1)
    return torch.rand(count, generator=source, dtype=torch.float64).to(like.device)


def reseed(seed: int, step: int) -> None:
    """torch's own generator, of which dropout draws, for this step on this rank."""
    torch.manual_seed(mix(seed, step, rank_of_process()) >> 1)
