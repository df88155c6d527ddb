"""The learning rate over a run: over its steps, or over the tokens that it learns from."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler


def spread(name: str, optimizer: Optimizer, warmup: float, total: int) -> LambdaLR:
    """A schedule of transformers over `total` units, steps or tokens; warmup: the share of them that it rises."""
    scheduler = get_scheduler(name, optimizer, round(warmup * total), total)
    if not isinstance(scheduler, LambdaLR):
        raise ValueError(f"student.schedule={name} looks at the run; use one that is known before: cosine, linear, ...")
    return scheduler


def set_rate(scheduler: Any, place: int) -> None:
    """The rate that the schedule has at `place`, whatever the number of steps that led there."""
    for group, base, factor in zip(
        scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
    ):
        group["lr"] = base * factor(place)
