"""A shard: some traces in one Arrow stream file, read through a memory map. Written whole or not at all.

Each prompt is kept once however many samples it has, and what all prompts of a shard begin with is kept in the schema.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from ekd.outside import check_plain
from ekd.store.codec import Layout, decode, encode
from ekd.store.squeeze import Reader, Writer
from ekd.types import Trace

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("problem_id", pa.string()),
        ("sample", pa.int32()),
        ("finish", pa.dictionary(pa.int8(), pa.string())),
        ("exact", pa.bool_()),
        ("prompt", pa.int32()),  # tokens of the prompt
        ("response", pa.int32()),  # tokens of the response = rows
        ("entries", pa.int64()),  # of all rows
        ("check", pa.uint32()),  # CRC-32 of everything else about the trace
        ("prompt_ids", pa.dictionary(pa.int32(), pa.large_binary())),  # without the shard's common beginning
        ("rows", pa.large_binary()),  # ekd.store.codec
    ]
)
# What decoding may say to bytes that nobody encoded: a stranger can give any bytes the right checksum.
HOSTILE = (ValueError, IndexError, StopIteration, OverflowError, MemoryError, pa.ArrowException)
Packed: TypeAlias = "bytes | pa.Buffer"
Part: TypeAlias = "tuple[list[Any], np.ndarray, Packed]"  # the first eight columns, prompt ids, packed rows


def part(trace: Trace, layout: Layout) -> Part:
    """A trace packed, ready for any shard. Raises ValueError, naming the trace, when it is not sound."""
    lengths = [len(trace.prompt_ids), len(trace.response_ids), len(trace.ids)]
    about = [trace.key, trace.problem_id, int(trace.sample), trace.finish, bool(trace.exact), *lengths]
    return about, trace.prompt_ids, encode(trace, layout)


def assemble(parts: Sequence[Part], origin: dict[str, Any]) -> bytes:
    """The bytes of a shard. Its schema carries the origin too, so that a lost manifest can be rebuilt."""
    begin = shared([prompt_ids for _, prompt_ids, _ in parts])
    table: list[list[Any]] = []
    for about, prompt_ids, rows in parts:
        prompt = Writer()
        prompt.integers(prompt_ids[len(begin) :], 4)
        table.append([*about, checksum(about, begin, prompt.bytes(), rows), prompt.bytes(), bytes(rows)])
    return stream(table, {"ekd": json.dumps({"origin": origin, "prompts_begin": begin.tolist()})})


def shared(prompts: Sequence[np.ndarray]) -> np.ndarray:
    """What all of them begin with."""
    begin = prompts[0]
    for prompt in prompts[1:]:
        size = min(len(begin), len(prompt))
        differ = np.flatnonzero(begin[:size] != prompt[:size])
        begin = begin[: differ[0] if len(differ) else size]
    return begin.astype(np.int32)


def stream(table: list[list[Any]], metadata: dict[str, str]) -> bytes:
    columns = []
    for field, values in zip(SCHEMA, zip(*table, strict=True), strict=True):
        plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        columns.append(pa.array(values, plain) if plain == field.type else encoded(values, field.type))
    schema = SCHEMA.with_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    return sink.getvalue().to_pybytes()


def encoded(values: Sequence[Any], kind: pa.DictionaryType) -> pa.DictionaryArray:
    different = list(dict.fromkeys(values))
    at = {value: i for i, value in enumerate(different)}
    indices = pa.array([at[value] for value in values], kind.index_type)
    return pa.DictionaryArray.from_arrays(indices, pa.array(different, kind.value_type))


def checksum(about: list[Any], begin: np.ndarray, prompt: Packed, rows: Packed) -> int:
    """CRC-32 of everything that a trace is made of."""
    check = 0
    for part in (repr(about).encode(), begin.tobytes(), prompt, rows):
        check = zlib.crc32(part, check)
    return check


def digest(path: Path) -> str:
    """sha256 of a file, a MiB at a time. Raises ValueError for a link or a device, which might never end."""
    check_plain(path)
    total = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            total.update(part)
    return total.hexdigest()


class Shard:
    """One open shard. Raises ValueError, one sentence with the file's name, when it cannot be read at all."""

    def __init__(self, path: Path, size: int | None = None):
        """size: bytes that the file should have; one that was cut off is read as far as it goes."""
        self.path, self.cut = path, False
        check_plain(path)
        try:
            reader = pa.ipc.open_stream(self._map(size))
            self.batch = reader.read_next_batch()
            self.batch.validate(full=True)  # offsets and indices are trusted from here on
            about = json.loads(reader.schema.metadata[b"ekd"])
            self.origin: dict[str, Any] = about["origin"]
            self.begin = np.array(about["prompts_begin"], np.int32)
        except (OSError, pa.ArrowException, StopIteration, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"shard {path.name} cannot be read ({str(error).splitlines()[0] if str(error) else 'empty'})"
            ) from None
        if not self.batch.schema.equals(SCHEMA) or any(column.null_count for column in self.batch.columns):
            raise ValueError(f"shard {path.name} cannot be read (its columns are {self.batch.schema.names})")
        if not isinstance(self.origin, dict):
            raise ValueError(f"shard {path.name} cannot be read (its origin is {self.origin!r})")

    def _map(self, size: int | None) -> pa.Buffer:
        with pa.memory_map(str(self.path)) as file:
            buffer = file.read_buffer()
        if size is not None and buffer.size < size:
            self.cut = True
            return pa.py_buffer(buffer.to_pybytes() + bytes(size - buffer.size))
        return buffer

    def __len__(self) -> int:
        return self.batch.num_rows

    def column(self, name: str) -> list[Any]:
        return self.batch.column(SCHEMA.names.index(name)).to_pylist()

    def trace(self, row: int, layout: Layout) -> Trace:
        """Decode one trace. Raises ValueError naming file and trace when its checksum does not match."""
        (key, problem_id, sample, finish, exact, _, response, entries), prompt_ids, rows = self.part(row)
        try:
            fields = decode(rows, response, entries, layout)
        except HOSTILE as error:
            raise ValueError(f"shard {self.path.name}: trace {key} cannot be decoded ({error})") from None
        return Trace(key, problem_id, sample, finish, prompt_ids, exact=exact, **fields)

    def damaged(self) -> set[int]:
        """Rows whose checksum does not match."""
        bad = set()
        for row in range(len(self)):
            try:
                self.part(row)
            except ValueError:
                bad.add(row)
        return bad

    def part(self, row: int) -> Part:
        """One trace as it lies here: facts, prompt ids, packed rows. Raises ValueError naming file and trace."""
        *cells, check, prompt, rows = (self.batch.column(i)[row] for i in range(len(SCHEMA)))
        about = [cell.as_py() for cell in cells]
        if check.as_py() != checksum(about, self.begin, prompt.value.as_buffer(), rows.as_buffer()):
            raise ValueError(f"shard {self.path.name}: trace {about[0]} is damaged (its checksum does not match)")
        try:
            left = Reader(prompt.value.as_buffer()).integers(about[5] - len(self.begin), 4)
        except HOSTILE as error:
            raise ValueError(f"shard {self.path.name}: the prompt of {about[0]} cannot be decoded ({error})") from None
        return about, np.concatenate([self.begin, left.astype(np.int32)]), rows.as_buffer()
