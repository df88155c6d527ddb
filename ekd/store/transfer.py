"""Stores into one store, and a store into files that any other tool can read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ekd.store.location import Location
from ekd.store.origin import what_differs
from ekd.store.shard import PackedTrace
from ekd.store.store import Store
from ekd.types import Trace

CHUNK = 64 << 20  # bytes of packed rows a merged shard

# Rows lie flat: row r has counts[r] entries, one after the other in ids and logprobs, the token that came next first.
COLUMNS = pa.schema(
    [
        ("key", pa.string()),
        ("problem_id", pa.string()),
        ("sample", pa.int32()),
        ("finish", pa.string()),
        ("exact", pa.bool_()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("response_ids", pa.list_(pa.int32())),
        ("counts", pa.list_(pa.int32())),
        ("ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("log_tail", pa.list_(pa.float32())),
        ("entropy", pa.list_(pa.float32())),
        ("valid", pa.list_(pa.bool_())),
        ("log_norm", pa.list_(pa.float32())),  # row r has one for each of the origin's temperatures
        ("verdict", pa.string()),  # "" where nobody graded the text
        ("policy", pa.string()),  # who wrote the text; "" where it is not known
        ("teacher_prompt_ids", pa.list_(pa.int32())),  # null: the teacher read prompt_ids
        ("contrast", pa.list_(pa.float32())),  # null: there is none
        ("log_q", pa.list_(pa.float32())),  # null: the writer was not asked for it
        ("ends", pa.list_(pa.bool_())),  # where tokens of a teacher of another family end; null: everywhere
    ]
)


def merge(sources: Sequence[Location], target: Location) -> Store:
    """All traces of stores of one origin in one store, in few large shards; each key once. Rows are not repacked.

    Raises ValueError when two origins differ or a trace is damaged (`repair` first).
    """
    stores = [Store(path) for path in sources]
    for store in stores[1:]:
        if store.origin != stores[0].origin:
            raise ValueError(what_differs(store.path, store.origin, stores[0].origin))
    out = Store.create(target, stores[0].origin)
    for chunk in packed_chunks(part for store in stores for part in packed_traces(store)):
        out.put(chunk)
    return out


def packed_traces(store: Store) -> Iterator[PackedTrace]:
    store.keys()
    for file in store.shards:
        shard = store.shard(file)
        yield from (shard.part(row) for row in range(len(shard)))


def packed_chunks(some: Iterable[PackedTrace]) -> Iterator[list[PackedTrace]]:
    chunk: list[PackedTrace] = []
    size = 0
    for part in some:
        chunk.append(part)
        size += len(part.rows)
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def export(store: Store, target: Path, some: int = 512) -> int:
    """Every trace, in the order of the keys, as plain columns: Parquet, or JSON lines for a target that ends in .jsonl.

    Written beside the target and renamed at the end. some: traces a row group. Returns how many traces there were.
    """
    keys = sorted(store.keys())
    unfinished = target.with_name(target.name + ".tmp")
    if target.suffix == ".jsonl":
        with unfinished.open("w", encoding="utf-8") as file:
            for key in keys:
                file.write(json.dumps(trace_json(store[key]), ensure_ascii=False) + "\n")
    else:
        about = COLUMNS.with_metadata({"ekd.origin": json.dumps(store.origin)})
        with pq.ParquetWriter(unfinished, about, compression="zstd") as writer:
            for at in range(0, len(keys), some):
                rows = [trace_json(store[key]) for key in keys[at : at + some]]
                writer.write_table(pa.Table.from_pylist(rows, schema=about))
    unfinished.replace(target)
    return len(keys)


def trace_json(trace: Trace) -> dict[str, object]:
    """A trace as plain values; -inf (no tail, no mass) is None, because JSON has no infinity."""
    out: dict[str, object] = {}
    for name in COLUMNS.names:
        value = trace._asdict()[name]
        if value is None or isinstance(value, str | int | bool):
            out[name] = value
        else:
            out[name] = [None if x == float("-inf") else x for x in value.ravel().tolist()]
    return out
