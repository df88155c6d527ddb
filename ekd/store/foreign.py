"""Traces from a Hugging Face dataset with top-k ids and logprobs for each token, as other tools keep them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import DatasetDict, load_dataset, load_from_disk

from ekd.models.tail import floored
from ekd.types import Trace


class Columns(NamedTuple):
    """Names of the foreign columns: top-k ids and logprobs for each response token, or for each input token."""

    ids: str = "top_ids"
    logprobs: str = "top_logprobs"
    input: str = "input_ids"
    labels: str = "labels"  # -100 (or anything that is not the input id) where the token is prompt


def load(source: str, split: str) -> Iterable[Mapping[str, Any]]:
    """A folder of `save_to_disk`, a .parquet / .json / .jsonl file, or a hub name."""
    path = Path(source)
    if path.is_dir():
        whole = load_from_disk(source)
        return whole[split] if isinstance(whole, DatasetDict) else whole
    kinds = {".parquet": "parquet", ".json": "json", ".jsonl": "json"}
    if path.suffix in kinds:
        return load_dataset(kinds[path.suffix], data_files=source, split="train")
    return load_dataset(source, split=split)


def traces(examples: Iterable[Mapping[str, Any]], columns: Columns, vocab: int) -> Iterator[Trace]:
    """Raises ValueError, naming the example, when a column is missing or rows and tokens do not fit."""
    for at, example in enumerate(examples):
        missing = [name for name in columns if name not in example]
        if missing:
            raise ValueError(f"example {at} has no column {missing[0]!r}; it has {', '.join(sorted(example))}")
        try:
            yield trace(example, columns, vocab, at)
        except (ValueError, TypeError) as error:
            raise ValueError(f"example {at} cannot be imported: {error}") from None


def trace(example: Mapping[str, Any], columns: Columns, vocab: int, at: int) -> Trace:
    tokens = np.asarray(example[columns.input], np.int32)
    response = np.asarray(example[columns.labels]) == tokens
    start = int(response.argmax()) if response.any() else len(tokens)
    if not response[start:].all() or not 0 < start < len(tokens):
        raise ValueError(f"{columns.labels!r} must mark one response that follows a prompt and ends the input")
    names = [example[columns.ids], example[columns.logprobs]]
    n = len(tokens) - start
    if {len(rows) for rows in names} == {len(tokens)}:  # a model's output at t predicts token t + 1
        names = [rows[start - 1 : -1] for rows in names]
    elif {len(rows) for rows in names} != {n}:
        raise ValueError(f"{n} response tokens, but {len(names[0])} rows of ids and {len(names[1])} of logprobs")
    rows = [row(int(token), some, logs, vocab) for token, some, logs in zip(tokens[start:], *names, strict=True)]
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


def row(
    token: int, some: Sequence[int], logs: Sequence[float], vocab: int
) -> tuple[np.ndarray, np.ndarray, float, float, bool]:
    """Ids, logprobs, log_tail, entropy (the midpoint of its bounds), valid. A token that is not named: a hard row."""
    ids, logprobs = np.asarray(some, np.int64), np.asarray(logs, np.float64)
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
