"""A Hugging Face model as the teacher: it generates solutions, or scores given ones (several times cheaper)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from ekd.models.generation import check_scored, common, generate, read_once
from ekd.models.head import Head, head_of
from ekd.models.spec import ModelSpec
from ekd.models.tail import floored
from ekd.teacher.draws import drawn
from ekd.types import Request, Trace


@dataclass(frozen=True, kw_only=True)
class HF:
    """Every teacher row: the next token, then ids until the cumulative mass reaches `mass`, at most `max_k`. With
    `draws` in their place: the ids that so many draws from the distribution gave, with ln(count / draws) and no tail.

    model, dtype, quantize, attention, device, trust_remote_code: see `ekd.models.spec.ModelSpec`.
    mode: "generate" or "score".
    temperature, top_p, max_new_tokens: of generation (rows are always taken at temperature 1, before any filter).
    temperatures: further ones at which each row's log-normaliser is recorded, so that training may use them.
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
    exact: bool = field(default=True, init=False)
    loaded: tuple[PreTrainedModel, set[int]] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.mode not in ("generate", "score"):
            raise ValueError(f"teacher.mode is generate or score, not {self.mode!r}")
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

    def origin(self) -> dict:
        """What decides the traces. Not the batch size or the device; sampling only where there is some."""
        left_out = {"batch_size", "device", "attention", "trust_remote_code", "loaded"}
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
        yield warm
        object.__setattr__(warm, "loaded", None)

    def trace(self, requests: Iterable[Request]) -> Iterator[Trace]:
        """Longest first, so that a batch has little padding and a batch too large for the memory fails at once.

        Text that a request brings is scored, whatever the mode.
        """
        ordered = sorted(requests, key=lambda r: -len(r.prompt_ids) - len(r.response_ids or ()))
        if not ordered:
            return
        model, end = self.loaded or self.spec.load_writer()
        given, others = [r for r in ordered if r.response_ids], [r for r in ordered if not r.response_ids]
        check_scored(model, [[*r.prompt_ids, *(r.response_ids or ())] for r in given])
        for some, make in ((given, self._score), (others, self._generate)):
            for start in range(0, len(some), self.batch_size):
                yield from make(model, end, some[start : start + self.batch_size])

    def _generate(self, model: PreTrainedModel, end: set[int], batch: list[Request]) -> Iterator[Trace]:
        known: list[list[Top]] = [[] for _ in batch]
        streams = [stream(r) for r in batch]

        def watch(rows: list[int], z: Tensor, chosen: Tensor) -> None:
            seen = self._rows(z, chosen, [streams[row] for row in rows])
            for place, row in enumerate(rows):
                known[row].append(Top(*(column[place] for column in seen)))

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
        for steps, request, text in zip(known, batch, texts, strict=True):
            rows = Top(*(torch.stack(columns) for columns in zip(*steps[: len(text.ids)], strict=True)))
            yield to_trace(request, text.ids, text.finish, rows)

    @torch.inference_mode()
    def _score(self, model: PreTrainedModel, end: set[int], batch: list[Request]) -> Iterator[Trace]:
        shared = common([r.prompt_ids[:-1] for r in batch])
        hidden = _suffix_hidden(model, [r.prompt_ids + (r.response_ids or []) for r in batch], shared)
        head = head_of(model)
        for row, request in enumerate(batch):
            response, chance = request.response_ids or [], stream(request)
            start = len(request.prompt_ids) - 1 - shared  # the last prompt token predicts the first of the response
            parts = []
            for at in range(0, len(response), 128):  # 128 rows of logits at a time: 25 MB at a vocabulary of 49,152
                chunk = torch.tensor(response[at : at + 128], device=hidden.device)
                rows = logits(hidden[row, start + at : start + at + len(chunk)], head)
                parts.append(self._rows(rows, chunk, [chance] * len(chunk)))
            known = Top(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
            yield to_trace(request, response, "stop" if response[-1] in end else "length", known)

    def _rows(self, z: Tensor, target: Tensor, streams: Sequence[np.random.Generator]) -> Top:
        """logits z (N, V), target (N,), and whose draws each row's are."""
        if not self.draws:
            return top(z, target, self.mass, self.max_k, self.temperatures)
        return counted(z, target, np.stack([chance.random(self.draws) for chance in streams]))


def stream(request: Request) -> np.random.Generator:
    """A request's own draws, so that order, batches and restarts never matter; apart from those of its text."""
    return np.random.default_rng([request.seed, 1])


def _suffix_hidden(model: PreTrainedModel, texts: list[list[int]], shared: int) -> Tensor:
    """(B, longest - shared, H). The common beginning (system message, worked examples) is read once, not B times."""
    decoder, cache = model.get_decoder(), read_once(model, texts[0][:shared], len(texts))
    width = max(map(len, texts))
    ids = torch.zeros((len(texts), width - shared), dtype=torch.long)
    mask = torch.zeros((len(texts), width), dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, : len(text) - shared] = torch.tensor(text[shared:])
        mask[row, : len(text)] = 1
    inputs = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
    return decoder(**inputs, past_key_values=cache, use_cache=cache is not None).last_hidden_state


class Top(NamedTuple):
    """Rows of one width: column 0 the next token, then the most likely others; `kept` marks the ragged part."""

    ids: Tensor  # (N, K)
    logprobs: Tensor  # (N, K)
    kept: Tensor  # (N, K) bool
    log_tail: Tensor  # (N,)
    entropy: Tensor  # (N,)
    log_norm: Tensor  # (N, temperatures)


def logits(hidden: Tensor, head: Head) -> Tensor:
    """(N, H) -> (N, V) as the model itself would."""
    z = F.linear(hidden, head.weight, head.bias) * head.scale
    return z if head.softcap is None else head.softcap * torch.tanh(z / head.softcap)


def top(z: Tensor, target: Tensor, mass: float, max_k: int, temperatures: Sequence[float]) -> Top:
    """logits z (N, V), target (N,) -> the rows a trace keeps. Entropy and tail are exact, over the whole vocabulary."""
    log_p, p, entropy = look(z)
    log_norm = torch.stack([(log_p / t).logsumexp(-1) for t in temperatures], -1) if temperatures else p[:, :0]
    best, ids = log_p.topk(min(max_k, log_p.shape[-1]), -1)
    before = best.exp().cumsum(-1) - best.exp()
    kept = (before < mass) & (ids != target[:, None])
    ids = torch.cat([target[:, None], ids], 1)
    kept = torch.cat([torch.ones_like(kept[:, :1]), kept], 1)
    known = torch.where(kept, ids, target[:, None])
    log_tail = floored(log_p.scatter(1, known, float("-inf")).logsumexp(-1), kept.sum(1), log_p.shape[-1])
    return Top(ids.cpu(), log_p.gather(1, ids).cpu(), kept.cpu(), log_tail.cpu(), entropy.cpu(), log_norm.cpu())


def counted(z: Tensor, target: Tensor, uniform: np.ndarray) -> Top:
    """logits z (N, V), target (N,), uniform (N, draws) -> counts; the next token is named in any case."""
    log_p, _, entropy = look(z.cpu() if z.device.type == "mps" else z)  # MPS has no float64
    target = target.to(log_p.device)
    ids, counts = drawn(log_p, torch.from_numpy(uniform))
    hit = ids == target[:, None]
    ids = torch.cat([target[:, None], ids], 1)
    counts = torch.cat([(counts * hit).sum(1, keepdim=True), counts.masked_fill(hit, 0)], 1)
    kept = counts > 0
    kept[:, 0] = True
    none = torch.full_like(entropy, float("-inf"))
    return Top(*(x.cpu() for x in (ids, (counts / uniform.shape[1]).log(), kept, none, entropy, log_p[:, :0])))


def look(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """logits (N, V) -> log p, p and the entropy (N,), nats."""
    z = z.float()
    log_p = z - z.logsumexp(-1, keepdim=True)  # not log_softmax: biased by 2e-5 on CPU at V = 151,936
    p = log_p.exp()
    return log_p, p, -(p * log_p.clamp_min(-1e30)).sum(-1)


def to_trace(request: Request, response: list[int], finish: str, rows: Top) -> Trace:
    return Trace(
        key=request.key,
        problem_id=request.problem_id,
        sample=request.sample,
        finish=finish,
        prompt_ids=np.array(request.prompt_ids, np.int32),
        response_ids=np.array(response, np.int32),
        counts=rows.kept.sum(1).numpy().astype(np.int32),
        ids=rows.ids[rows.kept].numpy().astype(np.int32),
        logprobs=rows.logprobs[rows.kept].numpy(),
        log_tail=rows.log_tail.numpy(),
        entropy=rows.entropy.numpy(),
        exact=True,
        valid=np.ones(len(response), bool),
        log_norm=rows.log_norm.numpy(),
    )
