"""From what a server says of each token to a Trace. Shared by the teachers over the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ekd.models.tail import entropy_between, floored
from ekd.types import Request, Trace

FAR = 1e6  # nats; a float32 softmax ends at 104


class Row(NamedTuple):
    """One token as a server described it; logprobs at temperature 1, before any sampling filter."""

    target: float  # ln p of the token itself
    ids: Sequence[int]  # alternatives that have an id, by falling probability; the token itself may be among them
    logprobs: Sequence[float]


def wire_trace(request: Request, ids: Sequence[int], rows: Sequence[Row | None], finish: str, vocab: int) -> Trace:
    """ids: the response, n tokens; rows: one for each, None = unmatched row; vocab: entries of the teacher's softmax.

    Raises ValueError for a row that is no distribution. Alternatives beyond `vocab` (a head may have more rows than the
    tokenizer has tokens) stay in the tail.
    """
    _check_ids(ids, rows, vocab)
    flat_ids, flat_logprobs, counts = _flatten(ids, rows, vocab)
    logprobs = _finite(flat_logprobs)
    valid = np.array([row is not None for row in rows])
    named = np.array(counts, dtype=np.int32)
    starts = np.concatenate(([0], np.cumsum(named)[:-1])).astype(np.intp)
    p = np.exp(logprobs)
    mass = np.add.reduceat(p, starts)
    if not np.all(mass < 1.01):  # NaN fails too
        raise ValueError(f"the server's logprobs of a token sum to a mass of {mass.max():.3f}: not a distribution")
    left = 1.0 - mass
    log_tail = floored(np.log(left, out=np.full_like(left, -np.inf), where=left > 0), named, vocab)
    log_tail[~valid] = -np.inf
    return Trace(
        key=request.key,
        problem_id=request.problem_id,
        sample=request.sample,
        finish=finish,
        prompt_ids=np.array(request.prompt_ids, dtype=np.int32),
        response_ids=np.array(ids, dtype=np.int32),
        counts=named,
        ids=np.array(flat_ids, dtype=np.int32),
        logprobs=logprobs.astype(np.float32),
        log_tail=log_tail.astype(np.float32),
        entropy=entropy_between(-np.add.reduceat(p * logprobs, starts), log_tail, named, vocab).astype(np.float32),
        exact=False,
        valid=valid,
        log_norm=np.empty((len(ids), 0), dtype=np.float32),
    )


def _check_ids(ids: Sequence[int], rows: Sequence[Row | None], vocab: int) -> None:
    named = [*ids, *(i for row in rows if row is not None for i in row.ids)]
    if not ids or set(map(type, named)) != {int}:
        raise ValueError("the server gave no ids, or ids that are no integers")
    if min(named) < 0 or max(ids) >= vocab:
        bad = min(named) if min(named) < 0 else max(ids)
        raise ValueError(f"the server gave the id {bad}, and the student's tokenizer has {vocab}")


def _finite(logprobs: list[float]) -> np.ndarray:
    if not set(map(type, logprobs)) <= {int, float} or not all(-FAR < value < FAR for value in logprobs):
        raise ValueError("the server gave a logprob that is no finite number: not a distribution")
    return np.array(logprobs, dtype=np.float64)


def _flatten(ids: Sequence[int], rows: Sequence[Row | None], vocab: int) -> tuple[list[int], list[float], list[int]]:
    flat_ids: list[int] = []
    flat_logprobs: list[float] = []
    counts = []
    for token, row in zip(ids, rows, strict=True):
        before = len(flat_ids)
        flat_ids.append(token)
        flat_logprobs.append(0.0 if row is None else row.target)
        if row is not None:
            if len(set(row.ids)) < len(row.ids):
                raise ValueError("the server named an id twice in one list of alternatives")
            for other, logprob in zip(row.ids, row.logprobs, strict=True):
                if other != token and other < vocab:
                    flat_ids.append(other)
                    flat_logprobs.append(logprob)
        counts.append(len(flat_ids) - before)
    return flat_ids, flat_logprobs, counts
