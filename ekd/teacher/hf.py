"""A Hugging Face model as the teacher: it generates solutions, or scores given ones (several times cheaper)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor
from transformers import PreTrainedModel

from ekd.models.generation import check_scored, generate
from ekd.models.head import Head, head_of
from ekd.models.prefix import Tree, keeps_keys
from ekd.models.reader import hidden_where
from ekd.models.spec import ModelSpec
from ekd.teacher.rows import Gathers, Own, Top, Translated, counted, top
from ekd.translate.bridge import Bridge, check_align
from ekd.types import Failure, Request, Trace

WINDOW = 64  # batches: requests that are looked at together, to put such of like length into one batch


@dataclass(frozen=True, kw_only=True)
class HF:
    """Every teacher row: the next token, then ids until the cumulative mass reaches `mass`, at most `max_k`. With
    `draws` in their place: the ids that so many draws from the distribution gave, with ln(count / draws) and no tail.

    model, dtype, quantize, attention, device, trust_remote_code: see `ekd.models.spec.ModelSpec`.
    mode: "generate" or "score".
    temperature, top_p, max_new_tokens: of generation (rows are always taken at temperature 1, before any filter).
    temperatures: further ones at which each row's log-normaliser is recorded, so that training may use them. align:
    auto, same or bytes, see `ekd.data.family`; bridge: to a student of another tokenizer, over whose ids rows then are.
    """

    model: str
    mode: str
    dtype: str
    quantize: str | None
    attention: str
    device: str
    trust_remote_code: bool
    mass: float
    max_k: int
    draws: int
    temperatures: Sequence[float]
    temperature: float
    top_p: float
    max_new_tokens: int
    batch_size: int
    align: str = "auto"  # also of configurations from before there was a choice
    bridge: Bridge | None = None
    exact: bool = field(default=True, init=False)
    loaded: tuple[PreTrainedModel, set[int]] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.mode not in ("generate", "score"):
            raise ValueError(f"teacher.mode is generate or score, not {self.mode!r}")
        check_align(self.align, self.bridge)
        if not 0 < self.mass <= 1:
            raise ValueError(f"teacher.mass is a share of the distribution, 0 < mass <= 1, not {self.mass}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"teacher.top_p is a share, 0 < top_p <= 1, not {self.top_p}")
        if self.temperature < 0 or any(t <= 0 for t in self.temperatures):
            raise ValueError(
                "teacher.temperature is 0 (greedy) or more, and each of teacher.temperatures more than 0, "
                f"not {self.temperature} and {list(self.temperatures)}"
            )
        if not 0 <= self.draws < 1 << 16:
            raise ValueError(f"teacher.draws is 0 (no drawing) to 65,535, not {self.draws}")
        if self.draws and self.temperatures:
            raise ValueError(
                f"teacher.draws={self.draws} are taken at temperature 1 and know no other, so teacher.temperatures is "
                f"[], not {list(self.temperatures)}; set teacher.draws=0 for other temperatures"
            )
        for name in ("max_k", "max_new_tokens", "batch_size"):
            if vars(self)[name] < 1:
                raise ValueError(f"teacher.{name} is 1 or more, not {vars(self)[name]}")

    @property
    def tokenizer(self) -> str:
        return self.model

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec.of(vars(self), layers="all")

    @property
    def own_tokenizer(self) -> str:
        return self.model

    def bridged(self, bridge: Bridge) -> HF:
        """The same teacher (warm, if it is), whose rows are over the student's ids."""
        for name in ("draws", "temperatures"):
            if vars(self)[name]:
                raise ValueError(
                    f"teacher.{name}={vars(self)[name]} is known of the teacher's ids, and the student has others "
                    f"(teacher.align={self.align}): set teacher.{name}={'0' if name == 'draws' else '[]'}, or choose a "
                    "student of the teacher's family"
                )
        other = copy(self)
        object.__setattr__(other, "bridge", bridge)
        return other

    def foreign(self) -> bool:
        """Never asked: its tokenizer is known."""
        return False

    def origin(self) -> dict[str, Any]:
        """What decides the traces. Not the batch size or the device; sampling only where there is some."""
        left_out = {"batch_size", "device", "attention", "trust_remote_code", "loaded", "align", "bridge"}
        left_out |= {"mass", "max_k"} if self.draws else {"draws"}
        if self.mode == "score":
            left_out |= {"temperature", "top_p", "max_new_tokens"}
        kept = {k: v for k, v in vars(self).items() if k not in left_out}
        return {
            "type": "hf",
            **self.spec.identity(),
            **kept,
            "temperatures": [float(t) for t in self.temperatures],
        }

    @contextmanager
    def open(self) -> Iterator[HF]:
        """The same teacher, whose model stays loaded until the end of the block."""
        if self.loaded:
            yield self
            return
        warm = copy(self)
        object.__setattr__(warm, "loaded", self.spec.load_writer())
        try:
            yield warm
        finally:
            object.__setattr__(warm, "loaded", None)

    def trace(self, requests: Iterable[Request]) -> Iterator[Trace | Failure]:
        """A window of WINDOW batches at a time, so that a stream may be without end. Within it the longest come first:
        a batch then has little padding, and one too large for the memory fails early.

        Text that a request brings is scored, whatever the mode.
        """
        coming, size = iter(requests), WINDOW * self.batch_size
        window = list(islice(coming, size))
        if not window:
            return
        with self.open() as warm:
            while window:
                yield from warm._window(window)
                window = list(islice(coming, size))

    def _window(self, requests: Iterable[Request]) -> Iterator[Trace | Failure]:
        assert self.loaded is not None
        model, end = self.loaded
        if self.bridge is not None:
            requests, failed = self.bridge.asked(requests)
            yield from failed
        ordered = sorted(requests, key=lambda r: -len(r.prompt_ids) - len(r.response_ids or ()))
        given, others = [r for r in ordered if r.response_ids], [r for r in ordered if not r.response_ids]
        check_scored(model, [[*r.prompt_ids, *(r.response_ids or ())] for r in given])
        for some, make in ((given, self._score), (others, self._generate)):
            for start in range(0, len(some), self.batch_size):
                yield from make(model, end, some[start : start + self.batch_size])

    def _generate(self, model: PreTrainedModel, end: set[int], batch: list[Request]) -> Iterator[Trace | Failure]:
        known = self._gathers(batch)
        texts = generate(
            model,
            [r.prompt_ids for r in batch],
            end=end,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seeds=[r.seed for r in batch],
            watch=known.see,
        )
        for place, (request, text) in enumerate(zip(batch, texts, strict=True)):
            yield known.trace(place, request, text.ids, text.finish)

    @torch.inference_mode()
    def _score(self, model: PreTrainedModel, end: set[int], batch: list[Request]) -> Iterator[Trace | Failure]:
        head, known = head_of(model), self._gathers(batch)
        texts = _hidden(model, batch).split([len(request.response_ids or []) for request in batch])
        for row, (request, hidden) in enumerate(zip(batch, texts, strict=True)):
            response = request.response_ids or []
            for at in range(0, len(response), 128):  # 128 rows of logits at a time: 25 MB at a vocabulary of 49,152
                chunk = torch.tensor(response[at : at + 128], device=hidden.device)
                known.see([row] * len(chunk), logits(hidden[at : at + len(chunk)], head), chunk)
            yield known.trace(row, request, response, "stop" if response[-1] in end else "length")

    def _gathers(self, batch: list[Request]) -> Gathers:
        if self.bridge is not None:
            return Translated(self.bridge, [self.bridge.whole(self.mass, self.max_k) for _ in batch])
        streams = [draw_stream(r) for r in batch]
        return Own(lambda z, target, places: self._rows(z, target, [streams[p] for p in places]), [[] for _ in batch])

    def _rows(self, z: Tensor, target: Tensor, streams: Sequence[np.random.Generator]) -> Top:
        """logits z (N, V), target (N,), and whose draws each row's are."""
        if not self.draws:
            return top(z, target, self.mass, self.max_k, self.temperatures)
        return counted(z, target, np.stack([chance.random(self.draws) for chance in streams]))


def draw_stream(request: Request) -> np.random.Generator:
    """A request's own draws, so that order, batches and restarts never matter; apart from those of its text."""
    return np.random.default_rng([request.seed, 1])


def _hidden(model: PreTrainedModel, batch: Sequence[Request]) -> Tensor:
    """(R, H), the rows that predict a response token, request after request."""
    prompts = [request.prompt_ids[:-1] for request in batch]  # the last id predicts the first of the response
    texts = [[*request.prompt_ids, *(request.response_ids or [])][:-1] for request in batch]
    width = max(map(len, texts))
    ids, mask = torch.zeros(len(texts), width, dtype=torch.long), torch.zeros(len(texts), width, dtype=torch.bool)
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        ids[row, : len(text)] = torch.tensor(text)
        mask[row, len(prompt) : len(text)] = True
    shared = Tree(prompts, [len(text) for text in texts]).chains() if keeps_keys(model) else ()
    inputs = move_data_to_device((ids, torch.arange(width).expand_as(ids), mask, shared), model.device)
    return hidden_where(model.get_decoder().__call__, *inputs)


def logits(hidden: Tensor, head: Head) -> Tensor:
    """(N, H) -> (N, V) as the model itself would."""
    z = F.linear(hidden, head.weight, head.bias) * head.scale
    return z if head.softcap is None else head.softcap * torch.tanh(z / head.softcap)
