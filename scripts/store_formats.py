"""What `bench_store.py` compares: rows of a real teacher, and what each format keeps of them."""

from __future__ import annotations

import json
from pathlib import Path
from time import process_time
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ekd.models.load import load_tokenizer
from ekd.store.store import Store
from ekd.types import Trace

WIDE = 256  # entries of each row that are kept for the comparison
VOCAB = 49_152
DRAWS = 64


class Rows(NamedTuple):
    """What the teacher thought at R response tokens."""

    prompt_lengths: np.ndarray  # (sequences,)
    response_lengths: np.ndarray  # (sequences,)
    prompts: np.ndarray  # flat ids
    responses: np.ndarray  # (R,)
    ids: np.ndarray  # (R, WIDE), falling
    logprobs: np.ndarray  # (R, WIDE) float32
    log_tail: np.ndarray  # (R,) of what is beyond WIDE
    entropy: np.ndarray  # (R,) exact
    target: np.ndarray  # (R,) logprob of the token that came next
    draws: np.ndarray  # (R, DRAWS) ids
    draw_logprobs: np.ndarray  # (R, DRAWS)


class Kept(NamedTuple):
    """What a format gives back, flat: `counts` entries a row."""

    name: str
    size: int  # bytes on disk
    counts: np.ndarray  # (R,)
    truth: np.ndarray  # the teacher's logprobs of the entries
    stored: np.ndarray  # the format's
    true_tail: np.ndarray  # (R,) mass
    stored_tail: np.ndarray  # (R,) mass; 0: the format has none
    write: float  # rows a second of one core (CPU time), encoding and writing
    read: float


def ragged(rows: Rows, mass: float, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """counts, ids, logprobs, tail mass of rows cut at `mass`: the target first, the others falling."""
    p = np.exp(rows.logprobs.astype(np.float64))
    k = np.minimum((np.cumsum(p, 1) < mass).sum(1) + 1, most)
    named = np.arange(WIDE) < k[:, None]
    target = rows.ids == rows.responses[:, None]
    others = named & ~target
    counts = others.sum(1) + 1
    first = np.cumsum(counts) - counts
    rest = np.delete(np.arange(counts.sum()), first)
    ids, logprobs = np.empty(counts.sum(), np.int32), np.empty(counts.sum(), np.float32)
    ids[first], ids[rest] = rows.responses, rows.ids[others]
    logprobs[first], logprobs[rest] = rows.target, rows.logprobs[others]
    tail = np.exp(rows.log_tail) + np.where(named | target, 0, p).sum(1)
    tail -= np.where(target.any(1), 0, np.exp(rows.target))  # the target is named even when it is beyond WIDE
    return counts, ids, logprobs, np.maximum(tail, 1e-30)


def traces(rows: Rows, counts: np.ndarray, ids: np.ndarray, logprobs: np.ndarray, log_tail: np.ndarray) -> list[Trace]:
    out, token, prompt = [], 0, 0
    ends = np.cumsum(counts)
    for i, (p, n) in enumerate(zip(rows.prompt_lengths, rows.response_lengths, strict=True)):
        one = slice(token, token + n)
        entries = slice(ends[token] - counts[token], ends[token + n - 1])
        out.append(
            Trace(
                key=f"{i:032x}",
                problem_id=f"gsm8k/{i}",
                sample=0,
                finish="stop",
                prompt_ids=rows.prompts[prompt : prompt + p],
                response_ids=rows.responses[one],
                counts=counts[one].astype(np.int32),
                ids=ids[entries],
                logprobs=logprobs[entries],
                log_tail=log_tail[one].astype(np.float32),
                entropy=rows.entropy[one].astype(np.float32),
                exact=True,
                valid=np.ones(n, bool),
                log_norm=np.zeros((n, 0), np.float32),
            )
        )
        token, prompt = token + n, prompt + p
    return out


def in_store(folder: Path, some: list[Trace], origin: dict) -> tuple[int, np.ndarray, np.ndarray, float, float]:
    """Bytes of the whole folder, logprobs and log_tails as read, rows a second written and read (in random order)."""
    rows = sum(len(trace.response_ids) for trace in some)
    began = process_time()
    store = Store.create(folder, {"vocab": VOCAB, **origin})
    for at in range(0, len(some), 512):
        store.append(some[at : at + 512])
    written = process_time() - began
    store = Store(folder)
    keys = np.random.default_rng(0).permutation([trace.key for trace in some])
    len(store)
    began = process_time()
    back = {key: store[key] for key in keys}
    read = process_time() - began
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    logprobs = np.concatenate([back[trace.key].logprobs for trace in some])
    return size, logprobs, np.concatenate([back[trace.key].log_tail for trace in some]), rows / written, rows / read


def ekd(rows: Rows, folder: Path, mass: float, most: int, coarse: int = 16) -> Kept:
    counts, ids, logprobs, tail = ragged(rows, mass, most)
    name = f"ekd mass {mass:g}, max_k {most}" + (f", coarse {coarse}" if coarse != 16 else "")
    some = traces(rows, counts, ids, logprobs, np.log(tail))
    size, stored, log_tail, write, read = in_store(folder / name, some, {"coarse": coarse})
    return Kept(name, size, counts, logprobs, stored, tail, np.exp(log_tail.astype(np.float64)), write, read)


def fixed(rows: Rows, folder: Path, k: int, squeezed: bool = False) -> Kept:
    """int32 id and fp16 logprob, k of them whatever the row; the tail is what is missing from 1."""
    zstd = pa.Codec("zstd", compression_level=19)
    ends = np.cumsum(rows.response_lengths)
    file = folder / f"fixed{k}"
    began = process_time()
    with file.open("wb") as out:
        for a, b in zip(ends - rows.response_lengths, ends, strict=True):
            data = rows.ids[a:b, :k].astype("<i4").tobytes() + rows.logprobs[a:b, :k].astype("<f2").tobytes()
            out.write(zstd.compress(data, asbytes=True) if squeezed else data)
    written = process_time() - began
    began = process_time()
    file.read_bytes()
    stored = rows.logprobs[:, :k].astype(np.float16).astype(np.float64)
    read = process_time() - began
    tail = np.exp(rows.log_tail) + np.exp(rows.logprobs[:, k:].astype(np.float64)).sum(1)
    guess = np.maximum(1 - np.exp(stored).sum(1), 1e-7)
    stored -= np.log(np.exp(stored).sum(1) + guess)[:, None]
    name = f"fixed top-{k}, int32 + fp16" + (", zstd-19" if squeezed else "")
    n = len(stored)
    rate = 0.0 if squeezed else n / read
    truth = rows.logprobs[:, :k].astype(np.float64).ravel()
    return Kept(name, file.stat().st_size, np.full(n, k), truth, stored.ravel(), tail, guess, n / written, rate)


def ollama(rows: Rows, folder: Path, most: int = 2_000) -> Kept:
    """Ollama's JSON (not streamed: the smaller of its two), 20 entries; on the first rows, because it is slow."""
    tokenizer, k = load_tokenizer("smollm2"), 20

    def entry(token: int, logprob: float) -> dict:
        words = tokenizer.decode([token])
        return {"token": words, "logprob": float(logprob), "bytes": list(words.encode())}

    n = min(most, len(rows.responses))
    began = process_time()
    lines = [
        entry(rows.responses[r], rows.target[r])
        | {"top_logprobs": [entry(*pair) for pair in zip(rows.ids[r, :k], rows.logprobs[r, :k], strict=True)]}
        for r in range(n)
    ]
    data = json.dumps(lines, separators=(",", ":"), ensure_ascii=False).encode()
    written = process_time() - began
    began = process_time()
    json.loads(data)
    read = process_time() - began
    tail = np.exp(rows.log_tail[:n]) + np.exp(rows.logprobs[:n, k:].astype(np.float64)).sum(1)
    truth = rows.logprobs[:n, :k].astype(np.float64).ravel()
    return Kept(
        "JSON as Ollama sends it, 20", len(data), np.full(n, k), truth, truth, tail, tail, n / written, n / read
    )


def drawn(rows: Rows, folder: Path) -> Kept:
    """RS-KD in ekd's store: 64 draws, id and count, lossless."""
    counts, ids, logprobs, truth = [], [], [], []
    for token, chance, some, logs in zip(rows.responses, rows.target, rows.draws, rows.draw_logprobs, strict=True):
        known, at, times = np.unique(some, return_index=True, return_counts=True)
        falling = np.argsort(-times, kind="stable")
        falling = falling[known[falling] != token]
        ids += [[token], known[falling]]
        hits = times[known == token]
        with np.errstate(divide="ignore"):
            logprobs += [np.log([hits[0] / DRAWS if len(hits) else 0.0]), np.log(times[falling] / DRAWS)]
        truth += [[chance], logs[at[falling]]]
        counts.append(len(falling) + 1)
    flat = np.concatenate(ids).astype(np.int32), np.concatenate(logprobs).astype(np.float32)
    n = len(counts)
    some = traces(rows, np.array(counts), *flat, np.full(n, -np.inf))
    size, stored, _, write, read = in_store(folder / "drawn", some, {"draws": DRAWS})
    name = f"ekd RS-KD, {DRAWS} draws"
    return Kept(name, size, np.array(counts), np.concatenate(truth), stored, np.zeros(n), np.zeros(n), write, read)


def packed24(rows: Rows, folder: Path, draws: int = 50, unique: int = 12) -> Kept:
    """SE-KD's cache: the 12 most frequent of 50 draws, padded, 17-bit id and 7-bit share in 3 bytes; entropy in one."""
    ids, share, truth = (np.zeros((len(rows.draws), unique), kind) for kind in (np.int64, np.int64, np.float64))
    ids += VOCAB  # the filler
    began = process_time()
    for r, some in enumerate(rows.draws[:, :draws]):
        known, at, times = np.unique(some, return_index=True, return_counts=True)
        top = np.argsort(-times, kind="stable")[:unique]
        ids[r, : len(top)], share[r, : len(top)] = known[top], np.rint(times[top] / draws * 127)
        truth[r, : len(top)] = rows.draw_logprobs[r, at[top]]
    word = (ids | share << 17).astype("<u4")
    entropy = np.rint(rows.entropy / np.log(VOCAB) * 255).astype(np.uint8)
    (folder / "packed24").write_bytes(
        word.view(np.uint8).reshape(len(ids), unique, 4)[..., :3].tobytes() + entropy.tobytes()
    )
    written = process_time() - began
    began = process_time()
    data = np.frombuffer((folder / "packed24").read_bytes()[: ids.size * 3], np.uint8).reshape(-1, 3).astype(np.int64)
    word = data[:, 0] | data[:, 1] << 8 | data[:, 2] << 16
    value = (word >> 17).reshape(len(ids), unique) / 127.0
    read = process_time() - began
    kept = value > 0
    value /= value.sum(1, keepdims=True)
    n, size = len(ids), (folder / "packed24").stat().st_size
    stored = np.log(value[kept])
    return Kept(
        "24-bit packed, 50 draws, 12",
        size,
        kept.sum(1),
        truth[kept],
        stored,
        np.zeros(n),
        np.zeros(n),
        n / written,
        n / read,
    )
