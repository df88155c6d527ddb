"""From the keys that stand side by side in conf/student to the student's nouns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ekd.distill.hard_label import HardLabel
from ekd.distill.settings import Build, Objective, Pace
from ekd.distill.student import Student
from ekd.models.lora import Lora
from ekd.models.spec import ModelSpec
from ekd.types import Loss, Selector, Signal


def make_student(
    *,
    model: str,
    layers: Sequence[int] | str,
    dtype: str,
    attention: str,
    quantize: str | None,
    trust_remote_code: bool,
    lora: Lora | None,
    gradient_checkpointing: bool,
    compile: bool,
    start: str | None,
    signal: Signal,
    selector: Selector,
    loss: Loss,
    gate: HardLabel | None,
    temperature: float,
    alpha_ce: float,
    tail: str,
    unmatched: str,
    head_mb: float,
    optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer],
    schedule: str,
    warmup: float,
    supervised_tokens: int | None,
    grad_limit: float | None,
) -> Student:
    """Each key is explained where it goes: `ekd.models.spec`, `ekd.distill.settings`. The annotations are what a value
    on the command line is checked against.
    """
    return Student(
        spec=ModelSpec(
            model=model, layers=layers, dtype=dtype, attention=attention, quantize=quantize,
            device="cpu", trust_remote_code=trust_remote_code,  # Lightning moves it
        ),
        build=Build(lora=lora, gradient_checkpointing=gradient_checkpointing, compile=compile, start=start),
        objective=Objective(
            temperature=temperature, alpha_ce=alpha_ce, tail=tail, unmatched=unmatched, head_mb=head_mb
        ),
        pace=Pace(
            optimizer=optimizer, schedule=schedule, warmup=warmup, supervised_tokens=supervised_tokens,
            grad_limit=grad_limit,
        ),
        signal=signal, selector=selector, loss=loss, gate=gate,
    )  # fmt: skip
