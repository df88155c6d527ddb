"""A step that has gone wrong stops the run in a sentence: clipped to length 1 it would look like any other step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from ekd.mistakes import Diverged


def gradient_norm(parameters: Iterable[torch.nn.Parameter]) -> Tensor:
    """The length of the whole gradient, before it is clipped; in shards, too, the same on every rank."""
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def check_step(trainer: Trainer, loss: Tensor, norm: Tensor, limit: float | None) -> None:
    """Before the optimizer moves. Raises Diverged with the step, the value and the ways out."""
    price, length = torch.stack([loss, norm.to(loss)]).tolist()  # a GPU is waited for once
    wrong, way = "", ""
    if not math.isfinite(price):
        wrong = f"the loss is {price}"
    elif not math.isfinite(length):
        wrong = "" if _tries_again(trainer) else f"the gradient's norm is {length}"
    elif limit is not None and length > limit:
        wrong = f"the gradient's norm is {length:.3g}, beyond student.grad_limit={limit:g}"
        way = "; student.grad_limit=null lets it pass, cut down to trainer.gradient_clip_val"
    if wrong:
        raise Diverged(
            f"step {trainer.global_step + 1}: {wrong}, and the student would learn nothing more; lower "
            f"student.optimizer.lr, raise student.warmup, or take another loss or student.temperature{way}"
            f"{_kept(trainer)}"
        )


def check_kl(trainer: Trainer, kl: float) -> None:
    """After a validation: weights may be lost in the last step of a run, too."""
    if not math.isfinite(kl):
        raise Diverged(
            f"after step {trainer.global_step} the held-out KL is {kl}: the student's weights are no numbers any more; "
            f"lower student.optimizer.lr or raise student.warmup{_kept(trainer)}"
        )


def _tries_again(trainer: Trainer) -> bool:
    """Under 16-mixed a gradient may overflow: the step is left out and the scale halved, until that is small, too."""
    plugin = trainer.precision_plugin
    return isinstance(plugin, MixedPrecision) and plugin.scaler is not None and plugin.scaler.get_scale() >= 1


def _kept(trainer: Trainer) -> str:
    callback = trainer.checkpoint_callback
    last = callback.last_model_path if isinstance(callback, ModelCheckpoint) else ""
    return f" (what there was before is kept: {last})" if last else ""
