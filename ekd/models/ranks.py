"""What selectors and signals share between the processes of a run. Every rank must call them equally often."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def is_shared() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def rank_of_process() -> int:
    return distributed.get_rank() if is_shared() else 0


def total(value: Tensor) -> Tensor:
    """The sum of `value` over all ranks."""
    if is_shared():
        value = value.clone()
        distributed.all_reduce(value)
    return value


def gathered(value: Tensor) -> Tensor:
    """value (R,), another R on each rank -> the values of all ranks, rank after rank, the same everywhere."""
    if not is_shared():
        return value
    sizes = [torch.zeros(1, dtype=torch.long, device=value.device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(sizes, torch.tensor([len(value)], device=value.device))
    widest = max(int(size) for size in sizes)
    parts = [value.new_empty(widest) for _ in sizes]
    distributed.all_gather(parts, torch.cat([value, value.new_zeros(widest - len(value))]))
    return torch.cat([part[: int(size)] for part, size in zip(parts, sizes, strict=True)])
