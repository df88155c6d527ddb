"""The last scores that were seen, of all ranks: what "high" means over a whole run."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ekd.models.ranks import gathered


class Ring(nn.Module):
    """Holds the last `size` scores in buffers, so that checkpoints carry them. Ready once it holds `warm_up`."""

    scores: Tensor
    pushed: Tensor

    def __init__(self, *, size: int, warm_up: int) -> None:
        super().__init__()
        if not 1 <= warm_up <= size:
            raise ValueError(f"warm_up={warm_up}, size={size}: the ring needs 1 <= warm_up <= size scores.")
        self.size, self.warm_up = size, warm_up
        # float32 kept as its bits: trainer.precision=bf16-true rounds every floating point buffer of a module
        self.register_buffer("scores", torch.zeros(size, dtype=torch.int32))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.long))

    @property
    def ready(self) -> bool:
        return int(self.pushed) >= self.warm_up

    def quantiles(self, *percents: float) -> list[Tensor]:
        """A float64 scalar for each percent, linear between ranks."""
        held = min(int(self.pushed), self.size)
        ascending = self.scores.view(torch.float32)[:held].sort().values.double()
        found = []
        for percent in percents:
            place = percent * (held - 1) / 100
            below, above = ascending[int(place)], ascending[min(int(place) + 1, held - 1)]
            found.append(below + (above - below) * (place - int(place)))
        return found

    def push(self, score: Tensor) -> None:
        """score (R,): those of all ranks enter, the oldest make room. Collective: each rank calls it, with none too."""
        new = gathered(score.detach().float())
        place = torch.arange(len(new), device=new.device)[-self.size :]
        self.scores.view(torch.float32)[(self.pushed + place) % self.size] = new[-self.size :]
        self.pushed += len(new)

    def extra_repr(self) -> str:
        return f"size={self.size}, warm_up={self.warm_up}"
