"""Traces from a Hugging Face dataset with top-k ids and logprobs for each token, as other tools keep them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ekd.models.tail import floored
from ekd.store.codec import Layout
from ekd.store.examples import Row
from ekd.store.invariants import SLACK
from ekd.store.shard import PackedTrace, part
from ekd.store.store import Store
from ekd.types import Trace

SOME = 512  # traces a shard
HOPELESS = 100  # refused rows before the first good one: then it is not the rows


class Columns(NamedTuple):
    """Names of the foreign columns: top-k ids and logprobs for each response token, or for each input token."""

    ids: str = "top_ids"
    logprobs: str = "top_logprobs"
    input: str = "input_ids"
    labels: str = "labels"  # -100 (or anything that is not the input id) where the token is prompt


class RefusedRow(NamedTuple):
    where: str  # file and line, or row
    why: str


def take(rows: Iterable[Row], columns: Columns, store: Store) -> Iterator[RefusedRow]:
    """Keeps every sound row and yields the others, each by its place. However it ends, what was read is kept."""
    some: list[PackedTrace] = []
    kept = refused = 0
    try:
        for found in packed_rows(rows, columns, store.layout):
            if isinstance(found, RefusedRow):
                refused += 1
                yield found
                if not kept and refused == HOPELESS:
                    raise ValueError(
                        f"the first {HOPELESS} rows cannot be imported, see above: are these the columns (--columns), "
                        "is it the vocabulary (--vocab)?"
                    )
                continue
            some.append(found)
            kept += 1
            if len(some) == SOME:
                store.put(some)
                some = []
    finally:
        store.put(some)


def packed_rows(rows: Iterable[Row], columns: Columns, layout: Layout) -> Iterator[PackedTrace | RefusedRow]:
    """Each row packed for a store, or why it cannot be."""
    for at, (where, example) in enumerate(rows):
        try:
            if isinstance(example, str):
                raise ValueError(example)
            yield part(trace(example, columns, layout.vocab, at), layout)
        except ValueError as error:
            yield RefusedRow(where, str(error))


def trace(example: Mapping[str, Any], columns: Columns, vocab: int, at: int) -> Trace:
    """Raises ValueError when a column is missing, rows and tokens do not fit, or a number is none of its kind."""
    missing = [name for name in columns if name not in example]
    if missing:
        raise ValueError(f"it has no column {missing[0]!r}; it has {', '.join(sorted(map(str, example))) or 'none'}")
    tokens = whole_numbers(example[columns.input], columns.input, vocab)
    start = response(tokens, listed(example[columns.labels], columns.labels), columns.labels)
    names = [listed(example[name], name) for name in (columns.ids, columns.logprobs)]
    n = len(tokens) - start
    if {len(rows) for rows in names} == {len(tokens)}:  # a model's output at t predicts token t + 1
        names = [rows[start - 1 : -1] for rows in names]
    elif {len(rows) for rows in names} != {n}:
        raise ValueError(f"{n} response tokens, but {len(names[0])} rows of ids and {len(names[1])} of logprobs")
    rows = [
        row(int(token), whole_numbers(some, columns.ids, vocab), logarithms(logs, columns.logprobs), vocab)
        for token, some, logs in zip(tokens[start:], *names, strict=True)
    ]
    content = json.dumps([tokens.tolist(), start]).encode()
    return Trace(
        key=hashlib.sha256(content).hexdigest()[:32],
        problem_id=f"imported/{at}",
        sample=0,
        finish="stop",
        prompt_ids=tokens[:start],
        response_ids=tokens[start:],
        counts=np.array([len(ids) for ids, *_ in rows], np.int32),
        ids=np.concatenate([ids for ids, *_ in rows]).astype(np.int32),
        logprobs=np.concatenate([logprobs for _, logprobs, *_ in rows]).astype(np.float32),
        log_tail=np.array([log_tail for *_, log_tail, _, _ in rows], np.float32),
        entropy=np.array([entropy for *_, entropy, _ in rows], np.float32),
        exact=False,
        valid=np.array([valid for *_, valid in rows]),
        log_norm=np.zeros((n, 0), np.float32),
    )


def response(tokens: np.ndarray, labels: list[Any], name: str) -> int:
    """Where the response begins."""
    if len(labels) != len(tokens):
        raise ValueError(f"{len(tokens)} input ids, but {len(labels)} of {name!r}")
    same = np.array([type(label) is int and label == token for label, token in zip(labels, tokens, strict=True)], bool)
    start = int(same.argmax()) if same.any() else len(tokens)
    if not same[start:].all() or not 0 < start < len(tokens):
        raise ValueError(f"{name!r} must mark one response that follows a prompt and ends the input")
    return start


def listed(some: Any, name: str) -> list[Any]:
    if not isinstance(some, list):
        raise ValueError(f"{name!r} holds {some!r:.60} where a list is wanted")
    return some


def whole_numbers(some: Any, name: str, vocab: int) -> np.ndarray:
    """(len,) int32. Nothing is rounded, wrapped or clamped."""
    most = min(vocab, 1 << 31)
    odd = [x for x in listed(some, name) if type(x) is not int or not 0 <= x < most]
    if odd:
        raise ValueError(f"{name!r} holds {odd[0]!r:.60}; ids are whole numbers from 0 to {most - 1:,} (--vocab)")
    return np.array(some, np.int32)


def logarithms(some: Any, name: str) -> np.ndarray:
    """(len,) float64."""
    odd = [x for x in listed(some, name) if type(x) not in (int, float) or not -1e30 < x <= SLACK]
    if odd:
        raise ValueError(f"{name!r} holds {odd[0]!r:.60}; a logprob is a finite number and at most 0")
    return np.array(some, np.float64)


def row(
    token: int, ids: np.ndarray, logprobs: np.ndarray, vocab: int
) -> tuple[np.ndarray, np.ndarray, float, float, bool]:
    """Ids, logprobs, log_tail, entropy (the midpoint of its bounds), valid. A token not named: unmatched."""
    if len(ids) != len(logprobs) or len(np.unique(ids)) != len(ids):
        raise ValueError(f"a row has {len(ids)} ids ({len(np.unique(ids))} different ones), {len(logprobs)} logprobs")
    if token not in ids:
        return np.array([token]), np.zeros(1), -np.inf, 0.0, False
    falling = np.lexsort((-logprobs, ids != token))
    ids, logprobs = ids[falling], logprobs[falling]
    mass = float(np.exp(logprobs).sum())
    if mass > 1.01:
        raise ValueError(f"a row has a mass of {mass:.3f}; the logprobs must be a softmax over the whole vocabulary")
    logprobs, left = (logprobs - np.log(mass), -np.inf) if mass >= 1 else (logprobs, np.log1p(-mass))
    known = -(np.exp(logprobs) * logprobs).sum()
    log_tail = float(floored(np.array([left]), np.array([len(ids)]), vocab)[0])
    if log_tail == -np.inf:
        return ids, logprobs, log_tail, known, True
    tail = np.exp(log_tail)
    return ids, logprobs, log_tail, known - tail * log_tail + tail * np.log(max(vocab - len(ids), 1)) / 2, True
