"""The arithmetic in which a model is asked: trainer.precision's words, where no trainer stands around."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from ekd.models.shards import is_sharded

P = ParamSpec("P")
T = TypeVar("T")

MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def check_precision(precision: str) -> None:
    """Raises ValueError for what is neither mixed nor the weights' own."""
    if precision not in (*MIXED, "32-true"):
        raise ValueError(
            "benchmark.precision is 32-true (that of the weights: student.dtype), bf16-mixed or 16-mixed, not "
            f"{precision!r}"
        )


def forward_context(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast where the precision is a mixed one; else the model's own dtype decides."""
    mixed = MIXED.get(precision)
    return nullcontext() if mixed is None else torch.autocast(device.type, dtype=mixed)


def cast_once(write: Callable[Concatenate[PreTrainedModel, P], T]) -> Callable[Concatenate[PreTrainedModel, P], T]:
    """Autocast rounds every matrix anew at every call, a quarter of the time where texts are written token by token.
    While `write` runs, the linear layers hold matrices that are rounded already: the same numbers, to the last bit,
    for half of float32's memory more. Nothing is done where no autocast is on, nor to a model in shards.
    """

    @wraps(write)
    def rounded(model: PreTrainedModel, /, *args: P.args, **more: P.kwargs) -> T:
        kind = model.device.type
        if is_sharded(model) or not torch.is_autocast_enabled(kind):
            return write(model, *args, **more)
        with _linear(model, torch.get_autocast_dtype(kind)):
            return write(model, *args, **more)

    return rounded


@contextmanager
def _linear(model: PreTrainedModel, dtype: torch.dtype) -> Iterator[None]:
    """Linear layers in another dtype, for a while."""
    own = {part: part.weight for part in model.modules() if isinstance(part, nn.Linear) and _plain(part.weight)}
    cast = {id(weight): nn.Parameter(weight.detach().to(dtype), requires_grad=False) for weight in own.values()}
    try:
        for part, weight in own.items():
            part.weight = cast[id(weight)]
        yield
    finally:
        for part, weight in own.items():
            part.weight = weight


def round_frozen(model: PreTrainedModel) -> None:
    """Under autocast, frozen matrices (LoRA) are rounded at every call, too, and kept for the backward pass. From here
    on training rounds them once: the same numbers, and in a step no more memory. Not for weights in shards.
    """
    for part in model.modules():
        if type(part) is nn.Linear and not part.weight.requires_grad:
            part.__class__ = Frozen


class Frozen(nn.Linear):
    """A linear layer that keeps its rounded matrix. Only while it trains: somebody who merges adapters into it writes
    past torch's count of changes, and does so afterwards.
    """

    kept: tuple[Tensor, int, Tensor] | None = None  # a weight, its count of changes, the weight rounded

    def forward(self, input: Tensor) -> Tensor:
        weight, kind = self.weight, input.device.type
        plain = _plain(weight) and not weight.requires_grad and not weight.is_inference()
        if not (self.training and plain and torch.is_autocast_enabled(kind)):
            return F.linear(input, weight, self.bias)
        dtype, kept = torch.get_autocast_dtype(kind), self.kept
        if kept is None or kept[0] is not weight or kept[1] != weight._version or kept[2].dtype != dtype:
            with torch.inference_mode(False):  # what validation makes has to serve training, too
                kept = self.__dict__["kept"] = weight, weight._version, weight.detach().to(dtype)
        return F.linear(input, kept[2], self.bias)


def _plain(weight: Tensor) -> bool:
    """float32 in one piece: no shard, nothing quantised."""
    return weight.dtype == torch.float32 and type(weight) is nn.Parameter and type(weight.data) is Tensor
