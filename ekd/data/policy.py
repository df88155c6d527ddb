"""The student as it is before training, as the one who writes: score its texts once, study them many times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from ekd.models.generation import generate
from ekd.models.spec import ModelSpec
from ekd.types import Request, Text


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a student writes. temperature 0 is greedy. batch_size: texts written at once."""

    temperature: float
    top_p: float
    max_new_tokens: int
    batch_size: int

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"temperature is 0 (greedy) or more and 0 < top_p <= 1, not {self.temperature} and {self.top_p}"
            )
        for name in ("max_new_tokens", "batch_size"):
            if vars(self)[name] < 1:
                raise ValueError(f"{name} of what the student writes is 1 or more, not {vars(self)[name]}")

    def origin(self) -> dict[str, Any]:
        """What decides the texts. Also the batch: in other company a row's sums are rounded otherwise."""
        return dict(vars(self))

    def write(self, model: PreTrainedModel, end: set[int], batch: Sequence[Request]) -> list[Text]:
        """With log_q of every id. end: see `ekd.models.load.end_ids`."""
        said: list[list[float]] = [[] for _ in batch]

        def watch(rows: list[int], logits: Tensor, chosen: Tensor) -> None:
            log_q = logits.float().log_softmax(-1).gather(-1, chosen[:, None])
            for row, value in zip(rows, log_q[:, 0].tolist(), strict=True):
                said[row].append(round(value, 4))

        texts = generate(
            model,
            [r.prompt_ids for r in batch],
            end=end,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seeds=[r.seed for r in batch],
            watch=watch,
        )
        return [text._replace(log_q=log_q[: len(text.ids)]) for text, log_q in zip(texts, said, strict=True)]


@dataclass(frozen=True, kw_only=True)
class StudentPolicy:
    """model, layers, dtype, attention, quantize, device, trust_remote_code: see `ekd.models.spec.ModelSpec`."""

    model: str
    layers: Sequence[int] | str
    dtype: str
    attention: str
    quantize: str | None
    device: str
    trust_remote_code: bool
    sampling: Sampling
    name: str = field(default="student", init=False)

    def origin(self) -> dict[str, Any]:
        return {"type": "student", **self.spec.origin(), **self.sampling.origin()}

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec.of(vars(self))

    @property
    def batch_size(self) -> int:
        return self.sampling.batch_size

    def write(self, batch: Sequence[Request]) -> list[Text]:
        return self.sampling.write(*self._loaded, batch)

    @cached_property
    def _loaded(self) -> tuple[PreTrainedModel, set[int]]:
        """The model and what ends its texts; loaded at the first text."""
        return self.spec.load_writer()
