"""A model's logits as the rows that a trace keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ekd.models.softmax import softmax_of
from ekd.models.tail import floored
from ekd.teacher.draws import drawn
from ekd.translate.bridge import Bridge
from ekd.translate.whole import Whole
from ekd.types import Failure, Request, Trace


class Top(NamedTuple):
    """Rows of one width: column 0 the next token, then the most likely others; `kept` marks the ragged part."""

    ids: Tensor  # (N, K)
    logprobs: Tensor  # (N, K)
    kept: Tensor  # (N, K) bool
    log_tail: Tensor  # (N,)
    entropy: Tensor  # (N,)
    log_norm: Tensor  # (N, temperatures)


def top(z: Tensor, target: Tensor, mass: float, max_k: int, temperatures: Sequence[float]) -> Top:
    """logits z (N, V), target (N,) -> the rows a trace keeps. Entropy and tail are exact, over the whole vocabulary."""
    log_p, p, entropy = softmax_of(z)
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
    log_p, _, entropy = softmax_of(z.cpu() if z.device.type == "mps" else z)  # MPS has no float64
    target = target.to(log_p.device)
    ids, counts = drawn(log_p, torch.from_numpy(uniform))
    hit = ids == target[:, None]
    ids = torch.cat([target[:, None], ids], 1)
    counts = torch.cat([(counts * hit).sum(1, keepdim=True), counts.masked_fill(hit, 0)], 1)
    kept = counts > 0
    kept[:, 0] = True
    none = torch.full_like(entropy, float("-inf"))
    return Top(*(x.cpu() for x in (ids, (counts / uniform.shape[1]).log(), kept, none, entropy, log_p[:, :0])))


def to_trace(request: Request, response: list[int], finish: str, rows: Top) -> Trace:
    return bare_trace(request, response, finish)._replace(
        counts=rows.kept.sum(1).numpy().astype(np.int32),
        ids=rows.ids[rows.kept].numpy().astype(np.int32),
        logprobs=rows.logprobs[rows.kept].numpy(),
        log_tail=rows.log_tail.numpy(),
        entropy=rows.entropy.numpy(),
        exact=True,
        valid=np.ones(len(response), bool),
        log_norm=rows.log_norm.numpy(),
    )


class Gathers(Protocol):
    """The rows of some answers, which come a few at a time."""

    def see(self, places: list[int], z: Tensor, target: Tensor) -> None:
        """logits z (N, V) and the tokens that came (N,), each of the answer at its place."""

    def trace(self, place: int, request: Request, ids: list[int], finish: str) -> Trace | Failure:
        """ids: the whole answer, of whose tokens there may be more rows."""


@dataclass
class Own:
    """Over the teacher's own ids. keep: (z, target, places) -> rows."""

    keep: Callable[[Tensor, Tensor, list[int]], Top]
    known: list[list[Top]]

    def see(self, places: list[int], z: Tensor, target: Tensor) -> None:
        seen = self.keep(z, target, places)
        if len(set(places)) == 1:
            self.known[places[0]].append(seen)
            return
        for row, place in enumerate(places):
            self.known[place].append(Top(*(column[row : row + 1] for column in seen)))

    def trace(self, place: int, request: Request, ids: list[int], finish: str) -> Trace:
        rows = Top(*(torch.cat(columns)[: len(ids)] for columns in zip(*self.known[place], strict=True)))
        return to_trace(request, ids, finish, rows)


@dataclass
class Translated:
    """Over the student's ids: the whole distribution is summed by the student's tokens before it is cut."""

    bridge: Bridge
    known: list[Whole]

    def see(self, places: list[int], z: Tensor, target: Tensor) -> None:
        log_p, came = softmax_of(z)[0].cpu().numpy(), target.cpu().numpy()
        for row, place in enumerate(places):
            self.known[place].add(log_p[row : row + 1], came[row : row + 1])

    def trace(self, place: int, request: Request, ids: list[int], finish: str) -> Trace | Failure:
        whole = self.known[place]
        whole.rows = whole.rows[: len(ids)]
        return self.bridge.of_whole(bare_trace(request, ids, finish), whole)


def bare_trace(request: Request, ids: list[int], finish: str) -> Trace:
    """A trace without rows."""
    none, ints = np.zeros(0, np.float32), np.zeros(0, np.int32)
    return Trace(
        key=request.key,
        problem_id=request.problem_id,
        sample=request.sample,
        finish=finish,
        prompt_ids=np.array(request.prompt_ids, np.int32),
        response_ids=np.array(ids, np.int32),
        counts=ints,
        ids=ints,
        logprobs=none,
        log_tail=none,
        entropy=none,
        exact=False,
        valid=np.zeros(0, bool),
        log_norm=np.zeros((0, 0), np.float32),
    )
