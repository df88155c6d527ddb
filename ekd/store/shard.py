"""A shard: some traces in one Arrow stream file, one record batch, read through a memory map."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ekd.store.codec import Layout, decode, encode
from ekd.types import Trace

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("problem_id", pa.string()),
        ("sample", pa.int32()),
        ("finish", pa.string()),
        ("exact", pa.bool_()),
        ("prompt", pa.int32()),
        ("response", pa.int32()),
        ("entries", pa.int64()),
        ("check", pa.uint32()),
        ("payload", pa.large_binary()),
    ]
)
INDEX = SCHEMA.names[:-2]


def build(traces: Sequence[Trace], layout: Layout, origin: bytes) -> bytes:
    """The bytes of a shard; its schema carries the origin, so that a lost manifest can be rebuilt."""
    rows = []
    for trace in traces:
        payload = encode(trace, layout)
        row: list[Any] = [trace.key, trace.problem_id, int(trace.sample), trace.finish, bool(trace.exact)]
        row += [len(trace.prompt_ids), len(trace.response_ids), len(trace.ids)]
        rows.append([*row, checksum(row, payload), payload])
    columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)]
    schema = SCHEMA.with_metadata({"ekd.origin": origin})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    return sink.getvalue().to_pybytes()


def checksum(row: Sequence[Any], payload: bytes | pa.Buffer) -> int:
    return zlib.crc32(payload, zlib.crc32(repr(list(row)).encode()))


def digest(path: Path) -> str:
    """sha256 of a file, a MiB at a time."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            total.update(part)
    return total.hexdigest()


class Shard:
    """One open shard. Raises ValueError, one sentence with the file's name, when it cannot be read at all."""

    def __init__(self, path: Path, size: int | None = None):
        self.path = path
        try:
            self.batch = self._open(size)
            self.batch.validate(full=True)  # offsets are trusted from here on
        except (OSError, pa.ArrowInvalid, StopIteration) as error:
            raise ValueError(f"shard {path.name} cannot be read: {error or 'it is empty'}") from None

    def _open(self, size: int | None) -> pa.RecordBatch:
        with pa.memory_map(str(self.path)) as file:
            buffer = file.read_buffer()
        if size is not None and buffer.size < size:  # cut off: what was before the cut is still there
            buffer = pa.py_buffer(buffer.to_pybytes() + bytes(size - buffer.size))
        reader = pa.ipc.open_stream(buffer)
        if reader.schema.names != SCHEMA.names:
            raise pa.ArrowInvalid(f"its columns are {reader.schema.names}")
        return reader.read_next_batch()

    def __len__(self) -> int:
        return self.batch.num_rows

    def column(self, name: str) -> list[Any]:
        return self.batch.column(SCHEMA.names.index(name)).to_pylist()

    def trace(self, index: int, layout: Layout) -> Trace:
        """Decode one trace. Raises ValueError naming file and trace when its checksum does not match."""
        row = [self.batch.column(i)[index].as_py() for i in range(len(INDEX))]
        payload = self.batch.column(SCHEMA.names.index("payload"))[index].as_buffer()
        if self.batch.column(SCHEMA.names.index("check"))[index].as_py() != checksum(row, payload):
            raise ValueError(f"shard {self.path.name}: trace {row[0]} is damaged (its checksum does not match)")
        key, problem_id, sample, finish, exact, prompt, response, entries = row
        fields = decode(payload, prompt, response, entries, layout)
        return Trace(key=key, problem_id=problem_id, sample=sample, finish=finish, exact=exact, **fields)
