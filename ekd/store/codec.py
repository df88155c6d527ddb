"""One trace <-> bytes: flat columns, fixed-point logarithms, byte planes, zstd. Pure functions.

A row of c entries keeps c - 1 ids (entry 0 is the response token, stored once), c logarithms, the tail and the entropy.
What is stored where, and what it costs, is told in docs/store.md.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ekd.types import Trace

STEP = 1024  # steps a nat of an alternative's logprob: off by 1/2048 nat = 4.9e-4 at most
FINE = 4096  # steps a nat of the target's logprob and of log_norm, in as many bytes as they need
TAIL = 2048  # steps a nat of -log_tail in 16 bit; NO_TAIL = the row names everything
NO_TAIL = 65535
NEVER = (1 << 24) - 1  # a target that the teacher gives no mass (-inf), in steps of FINE
SLACK = 1e-2  # how far named mass + tail may be from 1 before a row is refused
ZSTD = pa.Codec("zstd", compression_level=9)


class Layout(NamedTuple):
    """What a store's rows look like: decided by its origin, the same for every shard."""

    vocab: int  # entries of the teacher's softmax; ids are checked against it
    draws: int = 0  # N: rows are counts of N draws (RS-KD); 0: rows are logprobs and a tail
    temperatures: int = 0  # columns of log_norm

    @property
    def width(self) -> int:
        """Bytes an id: 3 hold every id below 262,144 and more; never a cut id."""
        return 3 if self.vocab <= 1 << 24 else 4


def encode(trace: Trace, layout: Layout) -> bytes:
    """The arrays of one trace as bytes. Raises ValueError for what the layout cannot hold; nothing is ever cut."""
    check(trace, layout)
    first = np.concatenate([[0], np.cumsum(trace.counts)[:-1]]).astype(np.int64)
    rest = np.ones(len(trace.ids), bool)
    rest[first] = False
    streams = [
        *planes(trace.prompt_ids, layout.width),
        *planes(trace.response_ids, layout.width),
        *planes(trace.counts - 1, 3),
        *planes(trace.ids[rest], layout.width),
        np.packbits(trace.valid),
        *planes(trace.entropy.astype(np.float16).view(np.uint16), 2),
        *planes(zigzag(np.rint(trace.log_norm.ravel() * FINE).astype(np.int64)), 4),
    ]
    if layout.draws:
        times = np.rint(np.exp(trace.logprobs.astype(np.float64)) * layout.draws).astype(np.int64)
        streams += [*planes(times[first], 2), *planes(times[rest], 2)]
    else:
        target = steps(trace.logprobs[first], FINE, NEVER)
        streams += planes(target, 3)
        streams += planes(falls(steps(trace.logprobs[rest], STEP, NO_TAIL), trace.counts - 1), 2)
        streams += planes(steps(trace.log_tail, TAIL, NO_TAIL), 2)
    return pack(streams)


def decode(
    payload: bytes | pa.Buffer, prompt: int, response: int, entries: int, layout: Layout
) -> dict[str, np.ndarray]:
    """The arrays of `encode`, as fields of a Trace; the three lengths come from the shard's columns."""
    stream = iter(unpack(payload))
    prompt_ids = join(stream, prompt, layout.width).astype(np.int32)
    response_ids = join(stream, response, layout.width).astype(np.int32)
    counts = join(stream, response, 3).astype(np.int32) + 1
    first = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    rest = np.ones(entries, bool)
    rest[first] = False
    ids = np.empty(entries, np.int32)
    ids[first], ids[rest] = response_ids, join(stream, entries - response, layout.width)
    valid = np.unpackbits(np.frombuffer(next(stream), np.uint8), count=response).astype(bool)
    entropy = join(stream, response, 2).astype(np.uint16).view(np.float16).astype(np.float32)
    norm = join(stream, response * layout.temperatures, 4)
    log_norm = (unzigzag(norm) / FINE).reshape(response, layout.temperatures).astype(np.float32)
    logprobs = np.empty(entries)
    if layout.draws:
        with np.errstate(divide="ignore"):
            logprobs[first] = np.log(join(stream, response, 2) / layout.draws)
            logprobs[rest] = np.log(join(stream, entries - response, 2) / layout.draws)
        log_tail = np.full(response, -np.inf)
    else:
        logprobs[first] = logs(join(stream, response, 3), FINE, NEVER)
        logprobs[rest] = -rises(join(stream, entries - response, 2), counts - 1) / STEP
        log_tail = logs(join(stream, response, 2), TAIL, NO_TAIL)
        mass = np.add.reduceat(np.exp(logprobs), first) if response else np.ones(0)
        with np.errstate(divide="ignore"):  # a tail of 1 leaves nothing to name
            logprobs += np.repeat(np.log1p(-np.exp(log_tail)) - np.log(mass), counts)
    return {
        "prompt_ids": prompt_ids,
        "response_ids": response_ids,
        "counts": counts,
        "ids": ids,
        "logprobs": logprobs.astype(np.float32),
        "log_tail": log_tail.astype(np.float32),
        "entropy": entropy,
        "valid": valid,
        "log_norm": log_norm,
    }


def check(trace: Trace, layout: Layout) -> None:
    """Every invariant of a Trace that storing it relies on. Raises ValueError naming the trace."""

    def refuse(why: str) -> None:
        raise ValueError(f"trace {trace.key} (problem {trace.problem_id}) cannot be stored: {why}")

    n, total = len(trace.response_ids), int(trace.counts.sum())
    if (
        not len(trace.counts)
        == len(trace.log_tail)
        == len(trace.entropy)
        == len(trace.valid)
        == len(trace.log_norm)
        == n
    ):
        refuse(f"it has {n} response tokens but {len(trace.counts)} rows; every response token needs one row")
    if n and int(trace.counts.min()) < 1:
        refuse("a row has no entry; entry 0 must be the token that came next")
    if len(trace.ids) != total or len(trace.logprobs) != total:
        refuse(f"its rows count {total} entries but it has {len(trace.ids)} ids and {len(trace.logprobs)} logprobs")
    for name, ids in (("prompt", trace.prompt_ids), ("response", trace.response_ids), ("teacher", trace.ids)):
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= layout.vocab):
            bad = int(ids.max()) if int(ids.min()) >= 0 else int(ids.min())
            refuse(f"{name} id {bad} is outside the vocabulary of {layout.vocab}; say the teacher's true vocab")
    if trace.log_norm.shape != (n, layout.temperatures):
        refuse(f"log_norm is {trace.log_norm.shape}, the store's temperatures ask for {(n, layout.temperatures)}")
    if not n:
        return
    first = np.cumsum(trace.counts) - trace.counts
    if not np.array_equal(trace.ids[first], trace.response_ids):
        refuse("entry 0 of a row is not the token that came next")
    if np.isnan(trace.logprobs).any() or np.isnan(trace.entropy).any() or np.isnan(trace.log_tail).any():
        refuse("it holds NaN")
    mass = np.add.reduceat(np.exp(trace.logprobs.astype(np.float64)), first) + np.exp(trace.log_tail.astype(np.float64))
    if np.abs(mass - 1).max() > SLACK:
        row = int(np.abs(mass - 1).argmax())
        refuse(f"row {row} has a mass of {mass[row]:.4f} with its tail; it must be 1 (within {SLACK})")
    drop = np.diff(trace.logprobs)
    within = np.ones(total, bool)
    within[first] = False
    later = within.copy()
    later[np.minimum(first + 1, total - 1)] = False
    if (drop[later[1:]] > 0).any():
        refuse("the entries after entry 0 do not follow by falling probability")


def steps(logs: np.ndarray, a_nat: int, none: int) -> np.ndarray:
    """-ln p in fixed point; `none` stands for -inf, the largest finite value is none - 1."""
    with np.errstate(invalid="ignore"):
        value = np.rint(np.maximum(-logs.astype(np.float64), 0) * a_nat)
    return np.where(np.isposinf(value), none, np.minimum(value, none - 1)).astype(np.int64)


def logs(value: np.ndarray, a_nat: int, none: int) -> np.ndarray:
    return np.where(value == none, -np.inf, -value / a_nat)


def falls(value: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Differences inside each row: small numbers, because a row falls."""
    out = np.diff(value, prepend=0)
    start = (np.cumsum(counts) - counts)[counts > 0]
    out[start] = value[start]
    return out


def rises(delta: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The inverse of `falls`."""
    total = np.cumsum(delta)
    kept = counts[counts > 0]
    start = np.cumsum(kept) - kept
    before = total[start] - delta[start] if len(start) else total
    return total - np.repeat(before, kept)


def zigzag(value: np.ndarray) -> np.ndarray:
    return (value << 1) ^ (value >> 63)


def unzigzag(value: np.ndarray) -> np.ndarray:
    return (value >> 1) ^ -(value & 1)


def planes(value: np.ndarray, width: int) -> list[np.ndarray]:
    """The bytes of non-negative integers, lowest first, each plane apart. Raises ValueError when one does not fit."""
    if len(value) and int(value.max()) >> (8 * width):
        raise ValueError(f"{int(value.max())} does not fit in {width} bytes")
    wide = np.ascontiguousarray(value, "<i8").view(np.uint8).reshape(-1, 8)
    return [np.ascontiguousarray(wide[:, i]) for i in range(width)]


def join(stream, count: int, width: int) -> np.ndarray:
    wide = np.zeros((count, 8), np.uint8)
    for i in range(width):
        wide[:, i] = np.frombuffer(next(stream), np.uint8)
    return wide.view("<i8").ravel()


def pack(streams: list[np.ndarray]) -> bytes:
    """Each stream squeezed by zstd where that helps: a table of (size, squeezed size; 0 = as it is), then the bytes."""
    table, body = [], []
    for stream in streams:
        plain = stream.tobytes()
        small = ZSTD.compress(plain, asbytes=True) if plain else b""
        table += [len(plain), len(small) if len(small) < len(plain) else 0]
        body.append(small if len(small) < len(plain) else plain)
    return struct.pack(f"<H{len(table)}I", len(streams), *table) + b"".join(body)


def unpack(payload: bytes | pa.Buffer) -> list[bytes]:
    view = memoryview(payload)
    (many,) = struct.unpack_from("<H", view)
    table = struct.unpack_from(f"<{2 * many}I", view, 2)
    at, out = 2 + 8 * many, []
    for plain, small in zip(table[::2], table[1::2], strict=True):
        size = small or plain
        part = view[at : at + size]
        out.append(ZSTD.decompress(part, plain, asbytes=True) if small else bytes(part))
        at += size
    return out
