"""One trace's rows <-> bytes. Pure functions; docs/store.md tells the layout and why it is so.

A row is put in falling order with the target at its rank. Its most probable entry costs nothing: the others are kept by
how far they lie below it, the tail by itself, and everything sums to 1. Distances are rounded where it harms least:
KL(p, p') of a rounded row is about sum p e^2 / 2, so equal harm for all means a step that grows as 1 / sqrt(p).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ekd.models.tail import floored
from ekd.store.invariants import check
from ekd.store.squeeze import PlaneReader, Writer
from ekd.types import Trace

STEP = 1024  # steps a nat at the top of a row: at most 1/2048 nat = 4.9e-4 off
NORM = 4096  # steps a nat of log_norm
NEVER = (1 << 23) - 1  # the code of a probability of 0; finite ones end just below
TABLE = 1 << 13  # codes looked up rather than computed: almost all
LEVELS = 1022  # of the entropy between its bounds; even, so that the midpoint is exact


class Layout(NamedTuple):
    """What the rows of a store look like: decided by its origin, the same for every shard."""

    vocab: int  # entries of the teacher's softmax; every id is checked against it
    draws: int = 0  # N: rows are counts of N draws (RS-KD); 0: rows are logprobs and a tail
    temperatures: int = 0  # columns of log_norm
    coarse: int = 16  # the largest step of a logprob in 1/1024 nat, reached far below the top; 1: the same everywhere
    read: int = 0  # entries of the vocabulary of the teacher's prompts, where that is another than the rows'

    @property
    def width(self) -> int:
        """Bytes of an id: 3, or 4 for a vocabulary that does not fit. Never a cut id."""
        return 3 if self.vocab <= 1 << 24 else 4


def encode(trace: Trace, layout: Layout) -> bytes:
    """Response ids, rows, entropy, validity and log_norm as bytes.

    Raises ValueError, naming the trace, for what is not a sound trace or does not fit; nothing is ever cut.
    """
    check(trace, layout.vocab, layout.temperatures, layout.read)
    out = Writer()
    first = np.cumsum(trace.counts, dtype=np.int64) - trace.counts
    rank = ranks(trace.logprobs, trace.counts, first)
    place = falling_places(trace.counts, first, rank)
    ids, logprobs = np.empty(len(trace.ids), np.int64), np.empty(len(trace.ids))
    ids[place], logprobs[place] = trace.ids, trace.logprobs
    out.integers(trace.counts - 1, 3)
    out.integers(rank, 3)
    out.ids(ids, layout.width)
    out.plane(np.packbits(~trace.valid))
    if layout.draws:
        out.integers(np.rint(np.exp(logprobs) * layout.draws).astype(np.int64), 2)
        out.integers(halves(trace.entropy), 2)
    else:
        put_rows(out, trace, logprobs, first, layout)
    fixed = np.rint(trace.log_norm.astype(np.float64).ravel() * NORM).astype(np.int64)
    out.integers((fixed << 1) ^ (fixed >> 63), 4)  # zigzag: small numbers of either sign have empty upper bytes
    return out.bytes()


def decode(payload: bytes | pa.Buffer, rows: int, entries: int, layout: Layout) -> dict[str, np.ndarray]:
    """What `encode` kept, as fields of a Trace, each with the dtype that ekd.types gives."""
    take = PlaneReader(payload)
    counts = take.integers(rows, 3) + 1
    first = np.cumsum(counts) - counts
    place = falling_places(counts, first, take.integers(rows, 3))
    ids = take.ids(entries, layout.width)[place].astype(np.int32)
    unmatched = np.unpackbits(take.plane((rows + 7) // 8), count=rows).astype(bool)
    if layout.draws:
        with np.errstate(divide="ignore"):
            logprobs = np.log(take.integers(entries, 2) / layout.draws)
        log_tail = np.full(rows, -np.inf)
        entropy = take.integers(rows, 2).astype(np.uint16).view(np.float16)
    else:
        logprobs, log_tail, entropy = take_rows(take, counts, first, layout)
        raised = floored(log_tail, counts, layout.vocab)  # also of stores made elsewhere
        log_tail = np.where(unmatched, log_tail, raised)
    fixed = take.integers(rows * layout.temperatures, 4)
    log_norm = ((fixed >> 1) ^ -(fixed & 1)) / NORM
    return {
        "response_ids": ids[first],
        "counts": counts.astype(np.int32),
        "ids": ids,
        "logprobs": logprobs[place].astype(np.float32),
        "log_tail": log_tail.astype(np.float32),
        "entropy": entropy.astype(np.float32),
        "valid": ~unmatched,
        "log_norm": log_norm.reshape(rows, layout.temperatures).astype(np.float32),
    }


def ranks(logprobs: np.ndarray, counts: np.ndarray, first: np.ndarray) -> np.ndarray:
    """How many of a row's other entries are at least as probable as entry 0."""
    if not len(first):
        return np.zeros(0, np.int64)
    above = logprobs >= np.repeat(logprobs[first], counts)
    return np.add.reduceat(above.astype(np.int64), first) - 1  # entry 0 is not above itself


def falling_places(counts: np.ndarray, first: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Where each entry of a row (target first) stands in the row's falling order: a permutation of the flat entries."""
    within = np.arange(int(counts.sum())) - np.repeat(first, counts)
    place: np.ndarray = within - (within <= np.repeat(rank, counts))  # those above the target move up by one
    place[first] = rank
    place += np.repeat(first, counts)
    return place


def put_rows(out: Writer, trace: Trace, logprobs: np.ndarray, first: np.ndarray, layout: Layout) -> None:
    """logprobs: of the rows in falling order, flat."""
    codes = to_code(np.repeat(logprobs[first], trace.counts) - logprobs, layout.coarse)
    mass = np.add.reduceat(np.exp(logprobs), first) if len(first) else np.zeros(0)
    tail = tail_code(trace.log_tail.astype(np.float64), mass, layout.coarse)
    later = np.delete(np.arange(len(codes)), first)
    out.integers(codes[later] - codes[later - 1], 3)  # rows fall, so differences are small and never negative
    out.integers(tail, 3)
    # between bounds that are told by the codes, not by what was given: the reader has only these
    put_entropy(out, trace.entropy, *told(codes, tail, trace.counts, first, layout)[2:])


def take_rows(
    take: PlaneReader, counts: np.ndarray, first: np.ndarray, layout: Layout
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Falling logprobs, flat; log_tail; entropy."""
    codes = np.zeros(int(counts.sum()), np.int64)
    codes[np.delete(np.arange(len(codes)), first)] = take.integers(len(codes) - len(first), 3)
    codes = np.cumsum(codes)
    codes -= np.repeat(codes[first], counts)  # one running sum over all rows; each begins at 0
    logprobs, log_tail, least, most = told(codes, take.integers(len(first), 3), counts, first, layout)
    return logprobs, log_tail, take_entropy(take, least, most)


def told(
    codes: np.ndarray, tail: np.ndarray, counts: np.ndarray, first: np.ndarray, layout: Layout
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What codes say of falling rows: logprobs whose mass and tail are exactly 1, log_tail, and the entropy's bounds.

    The least entropy has the whole tail on one id, the most has it spread evenly over the ids that are not named.
    """
    if int(codes.max(initial=0)) < TABLE:
        below, p, product = (table[codes] for table in tables(layout.coarse))
    else:
        below, p, product = terms(codes, layout.coarse)
    log_tail, log_named = from_tail_code(tail, layout.coarse)
    if not len(first):
        return -below, log_tail, log_tail, log_tail
    mass, scale = np.exp(log_tail), log_named - np.log(np.add.reduceat(p, first))
    least = np.exp(scale) * np.add.reduceat(product, first) - np.exp(log_named) * scale
    least -= np.where(mass > 0, mass * np.where(mass > 0, log_tail, 0), 0)
    most = least + mass * np.log(np.maximum(layout.vocab - counts, 1))
    return np.repeat(scale, counts) - below, log_tail, least, most


def tail_code(log_tail: np.ndarray, mass: np.ndarray, coarse: int) -> np.ndarray:
    """Twice the code of the smaller of tail and named mass; plus 1 when that is the named mass. The other is 1 - it."""
    large = log_tail > np.log(0.5)
    code: np.ndarray = 2 * to_code(np.where(large, -np.log(mass), -log_tail), coarse) + large
    return code


def from_tail_code(code: np.ndarray, coarse: int) -> tuple[np.ndarray, np.ndarray]:
    """(log_tail, ln of the named mass)."""
    small = -from_code(code >> 1, coarse)
    # that the smaller part is all (code 0) only a damaged store says; what is left stays finite
    large = np.log1p(-np.exp(np.minimum(small, -1e-9)))
    return np.where(code & 1, large, small), np.where(code & 1, small, large)


@lru_cache
def tables(coarse: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return terms(np.arange(TABLE), coarse)


def terms(codes: np.ndarray, coarse: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """r nats below the top, p = exp(-r) of the top, and r p."""
    below = from_code(codes, coarse)
    p = np.exp(-below)
    return below, p, np.where(p > 0, below, 0) * p


def to_code(below: np.ndarray, coarse: int) -> np.ndarray:
    """Nats below the top -> steps: 1/1024 nat at 0, growing as exp(below / 2) = 1 / sqrt(p) up to coarse/1024."""
    knee = 2 * np.log(coarse)
    near = (1 - np.exp(-np.minimum(below, knee) / 2)) * 2 * STEP
    steps = near + np.maximum(below - knee, 0) * (STEP / coarse)
    return np.where(np.isposinf(below), NEVER, np.minimum(np.rint(steps), NEVER - 1)).astype(np.int64)


def from_code(code: np.ndarray, coarse: int) -> np.ndarray:
    near = (1 - 1 / coarse) * 2 * STEP
    below = -2 * np.log1p(-np.minimum(code, near) / (2 * STEP)) + np.maximum(code - near, 0) * (coarse / STEP)
    return np.where(code == NEVER, np.inf, below)


def put_entropy(out: Writer, entropy: np.ndarray, least: np.ndarray, most: np.ndarray) -> None:
    """Where the entropy lies between its bounds; fp16 for a trace where it lies elsewhere."""
    room = np.maximum(most - least, 1e-30)
    level = np.rint(np.clip((entropy - least) / room, 0, 1) * LEVELS).astype(np.int64)
    inside = bool((np.abs(least + level / LEVELS * room - entropy) <= 1e-3 + 2e-3 * np.abs(entropy)).all())
    out.number(int(inside))
    out.integers(level if inside else halves(entropy), 2)


def halves(value: np.ndarray) -> np.ndarray:
    """fp16 as integers."""
    return value.astype(np.float16).view(np.uint16).astype(np.int64)


def take_entropy(take: PlaneReader, least: np.ndarray, most: np.ndarray) -> np.ndarray:
    inside, level = take.number(), take.integers(len(least), 2)
    if not inside:
        return level.astype(np.uint16).view(np.float16)
    between: np.ndarray = least + level / LEVELS * np.maximum(most - least, 1e-30)
    return between
