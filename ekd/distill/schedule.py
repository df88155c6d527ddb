"""The learning rate over a run: over its steps, or over the tokens that it learns from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler


def spread(name: str, optimizer: Optimizer, warmup: float, total: int) -> LambdaLR:
    """A schedule of transformers over `total` units, steps or tokens; warmup: the share of them that it rises.

    A step has the rate in its middle, half a unit after its beginning: at its beginning the first would have a rate of
    0 and teach nothing, at its end the last.
    """
    shape = get_scheduler(name, SGD([torch.zeros(1)], lr=1.0), round(warmup * total), total)
    if not isinstance(shape, LambdaLR):
        raise ValueError(f"student.schedule={name} looks at the run; use one that is known before: cosine, linear, ...")
    factor = cast(Callable[[float], float], shape.lr_lambdas[0])  # annotated for whole steps, right between them
    return LambdaLR(optimizer, lambda step: factor(step + 0.5))


def set_rate(scheduler: Any, place: float) -> None:
    """The rate that the schedule has at `place`, whatever the number of steps that led there."""
    for group, base, factor in zip(
        scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
    ):
        group["lr"] = base * factor(place - 0.5)
