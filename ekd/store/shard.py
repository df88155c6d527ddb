"""A shard: some traces in one Arrow stream file, read through a memory map. Written whole or not at all.

Each prompt is kept once however many samples it has, and what all prompts of a shard begin with is kept in the schema.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from ekd.store.codec import Layout, decode, encode
from ekd.store.location import Location, check_link, near
from ekd.store.squeeze import PlaneReader, Writer
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
# What only some traces have. A shard without any of it is written without these columns, as version 0.1 did.
FURTHER = [
    ("verdict", pa.dictionary(pa.int8(), pa.string())),
    ("policy", pa.dictionary(pa.int32(), pa.string())),
    ("teacher_prompt_ids", pa.dictionary(pa.int32(), pa.large_binary())),  # empty: the teacher read prompt_ids
    ("contrast", pa.large_binary()),  # empty: there is none
]
WIDE = pa.schema([*SCHEMA, *FURTHER])
WIDER = pa.schema([*WIDE, ("log_q", pa.large_binary())])  # of texts of a student; empty: there is none
WIDEST = pa.schema([*WIDER, ("ends", pa.large_binary())])  # of translated rows; empty: there is none
NAT, UNKNOWN = 1024, (1 << 24) - 1  # of a contrast and log_q: steps of a nat, and what stands for NaN
Packed: TypeAlias = "bytes | pa.Buffer"


class PackedTrace(NamedTuple):
    """A trace packed."""

    about: list[Any]  # the first eight columns
    prompt_ids: np.ndarray
    rows: Packed
    verdict: str = ""
    policy: str = ""
    teacher_prompt_ids: np.ndarray | None = None
    contrast: Packed = b""
    log_q: Packed = b""
    ends: Packed = b""

    @property
    def schema(self) -> pa.Schema:
        """The narrowest that holds all of it."""
        if self.ends or self.log_q:
            return WIDEST if self.ends else WIDER
        return SCHEMA if self[3:] == ("", "", None, b"", b"", b"") else WIDE


def part(trace: Trace, layout: Layout) -> PackedTrace:
    """A trace packed, ready for any shard. Raises ValueError, naming the trace, when it is not sound."""
    lengths = [len(trace.prompt_ids), len(trace.response_ids), len(trace.ids)]
    about = [trace.key, trace.problem_id, int(trace.sample), trace.finish, bool(trace.exact), *lengths]
    contrast, log_q = (b"" if some is None else pack_nats(some) for some in (trace.contrast, trace.log_q))
    ends = b"" if trace.ends is None else np.packbits(trace.ends).tobytes()
    more = trace.verdict, trace.policy, trace.teacher_prompt_ids, contrast, log_q, ends
    return PackedTrace(about, trace.prompt_ids, encode(trace, layout), *more)


def pack_nats(log_p: np.ndarray) -> bytes:
    """(n,) ln p, at most 0, or NaN where it is not known -> steps of 1/1024 nat below 0."""
    out, steps = Writer(), np.rint(np.clip(-log_p.astype(np.float64), 0, 16_000) * NAT)
    out.integers(np.where(np.isnan(steps), UNKNOWN, steps).astype(np.int64), 3)
    return out.bytes()


def unpack_nats(packed: Packed, rows: int) -> np.ndarray | None:
    if not len(packed):
        return None
    steps = PlaneReader(packed).integers(rows, 3)
    return np.where(steps == UNKNOWN, np.nan, -steps / NAT).astype(np.float32)


def unpack_bits(packed: Packed, rows: int) -> np.ndarray | None:
    if not len(packed):
        return None
    if len(packed) != (rows + 7) // 8:
        raise ValueError(f"{len(packed)} bytes are not a bit for each of {rows} rows")
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=rows).astype(bool)


def assemble_shard(parts: Sequence[PackedTrace], origin: dict[str, Any]) -> bytes:
    """The bytes of a shard. Its schema carries the origin too, so that a lost manifest can be rebuilt."""
    begin, schema = shared_prefix([part.prompt_ids for part in parts]), max((part.schema for part in parts), key=len)
    wide = schema is not SCHEMA
    others = [part.teacher_prompt_ids for part in parts if part.teacher_prompt_ids is not None]
    teacher_begin = shared_prefix(others) if others else begin[:0]
    table: list[list[Any]] = []
    for part in parts:
        prompt = Writer()
        prompt.integers(part.prompt_ids[len(begin) :], 4)
        more = further(part, teacher_begin)[: len(schema) - len(SCHEMA)]
        known = [repr(more).encode(), teacher_begin.tobytes()] if wide else []
        check = trace_checksum(part.about, begin, prompt.bytes(), part.rows, *known)
        table.append([*part.about, check, prompt.bytes(), bytes(part.rows), *more])
    about = {"origin": origin, "prompts_begin": begin.tolist()}
    about |= {"teacher_prompts_begin": teacher_begin.tolist()} if wide else {}
    return table_bytes(table, {"ekd": json.dumps(about)}, schema)


def further(part: PackedTrace, begin: np.ndarray) -> list[Any]:
    """The further columns of one trace. begin: of the shard's teacher prompts."""
    prompt = Writer()
    if part.teacher_prompt_ids is not None:
        prompt.number(len(part.teacher_prompt_ids))
        prompt.integers(part.teacher_prompt_ids[len(begin) :], 4)
    read = b"" if part.teacher_prompt_ids is None else prompt.bytes()
    return [part.verdict, part.policy, read, bytes(part.contrast), bytes(part.log_q), bytes(part.ends)]


def shared_prefix(prompts: Sequence[np.ndarray]) -> np.ndarray:
    """What all of them begin with."""
    begin = prompts[0]
    for prompt in prompts[1:]:
        size = min(len(begin), len(prompt))
        differ = np.flatnonzero(begin[:size] != prompt[:size])
        begin = begin[: differ[0] if len(differ) else size]
    return begin.astype(np.int32)


def table_bytes(table: list[list[Any]], metadata: dict[str, str], schema: pa.Schema = SCHEMA) -> bytes:
    columns = []
    for field, values in zip(schema, zip(*table, strict=True), strict=True):
        plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        columns.append(pa.array(values, plain) if plain == field.type else encoded(values, field.type))
    schema = schema.with_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    written: bytes = sink.getvalue().to_pybytes()
    return written


def encoded(values: Sequence[Any], kind: pa.DictionaryType) -> pa.DictionaryArray:
    different = list(dict.fromkeys(values))
    at = {value: i for i, value in enumerate(different)}
    indices = pa.array([at[value] for value in values], kind.index_type)
    return pa.DictionaryArray.from_arrays(indices, pa.array(different, kind.value_type))


def trace_checksum(about: list[Any], begin: np.ndarray, prompt: Packed, rows: Packed, *more: bytes) -> int:
    """CRC-32 of everything that a trace is made of. more: of its further columns, if its shard has them."""
    check = 0
    for part in (repr(about).encode(), begin.tobytes(), prompt, rows, *more):
        check = zlib.crc32(part, check)
    return check


class Shard:
    """One open shard. Raises ValueError, one sentence with the file's name, when it cannot be read at all."""

    def __init__(self, path: Location, size: int | None = None):
        """size: bytes that the file should have; one that was cut off is read as far as it goes."""
        self.path, self.cut = path, False
        check_link(path)
        try:
            reader = pa.ipc.open_stream(self._map(size))
            self.batch = reader.read_next_batch()
            self.batch.validate(full=True)  # offsets and indices are trusted from here on
            about = json.loads(reader.schema.metadata[b"ekd"])
            self.origin: dict[str, Any] = about["origin"]
            self.begin = np.array(about["prompts_begin"], np.int32)
            self.teacher_begin = np.array(about.get("teacher_prompts_begin", []), np.int32)
        except (OSError, pa.ArrowException, StopIteration, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"shard {path.name} cannot be read ({str(error).splitlines()[0] if str(error) else 'empty'})"
            ) from None
        known = any(self.batch.schema.equals(schema) for schema in (SCHEMA, WIDE, WIDER, WIDEST))
        if not known or any(column.null_count for column in self.batch.columns):
            raise ValueError(f"shard {path.name} cannot be read (its columns are {self.batch.schema.names})")
        if not isinstance(self.origin, dict):
            raise ValueError(f"shard {path.name} cannot be read (its origin is {self.origin!r})")

    def _map(self, size: int | None) -> pa.Buffer:
        with pa.memory_map(str(near(self.path, size))) as file:
            buffer = file.read_buffer()
        if size is not None and buffer.size < size:
            self.cut = True
            return pa.py_buffer(buffer.to_pybytes() + bytes(size - buffer.size))
        return buffer

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    def column(self, name: str) -> list[Any]:
        return list(self.batch.column(SCHEMA.names.index(name)).to_pylist())

    def lengths(self) -> list[tuple[int, int]]:
        """Prompt tokens and response tokens of each trace."""
        return list(zip(self.column("prompt"), self.column("response"), strict=True))

    def verdicts(self) -> list[str]:
        at = self.batch.schema.get_field_index("verdict")
        return [""] * len(self) if at < 0 else self.batch.column(at).to_pylist()

    def trace(self, row: int, layout: Layout) -> Trace:
        """Decode one trace. Raises ValueError naming file and trace when its checksum does not match."""
        part = self.part(row)
        key, problem_id, sample, finish, exact, _, response, entries = part.about
        try:
            fields: dict[str, Any] = dict(decode(part.rows, response, entries, layout))
            contrast, log_q = (unpack_nats(some, response) for some in (part.contrast, part.log_q))
            fields["ends"] = unpack_bits(part.ends, response)
        except HOSTILE as error:
            raise ValueError(f"shard {self.path.name}: trace {key} cannot be decoded ({error})") from None
        fields |= {"verdict": part.verdict, "policy": part.policy, "contrast": contrast, "log_q": log_q}
        fields["teacher_prompt_ids"] = part.teacher_prompt_ids
        return Trace(key, problem_id, sample, finish, part.prompt_ids, exact=exact, **fields)

    def damaged(self) -> set[int]:
        """Rows whose checksum does not match."""
        bad = set()
        for row in range(len(self)):
            try:
                self.part(row)
            except ValueError:
                bad.add(row)
        return bad

    def part(self, row: int) -> PackedTrace:
        """One trace as it lies here: facts, prompt ids, packed rows. Raises ValueError naming file and trace."""
        cells = [column[row] for column in self.batch.columns]
        about, (check, prompt, rows) = [cell.as_py() for cell in cells[:8]], cells[8:11]
        more = [cell.as_py() for cell in cells[11:]]
        known = [repr(more).encode(), self.teacher_begin.tobytes()] if more else []
        if check.as_py() != trace_checksum(about, self.begin, prompt.value.as_buffer(), rows.as_buffer(), *known):
            raise ValueError(f"shard {self.path.name}: trace {about[0]} is damaged (its checksum does not match)")
        try:
            ids = after(self.begin, PlaneReader(prompt.value.as_buffer()), about[5])
            if not more:
                return PackedTrace(about, ids, rows.as_buffer())
            verdict, policy, read, *others = more
            reader = PlaneReader(read) if read else None
            teacher_ids = after(self.teacher_begin, reader, reader.number()) if reader else None
        except HOSTILE as error:
            raise ValueError(f"shard {self.path.name}: the prompt of {about[0]} cannot be decoded ({error})") from None
        return PackedTrace(about, ids, rows.as_buffer(), verdict, policy, teacher_ids, *others)


def after(begin: np.ndarray, reader: PlaneReader, length: int) -> np.ndarray:
    """The ids of a prompt of so many, whose beginning is its shard's."""
    return np.concatenate([begin, reader.integers(length - len(begin), 4).astype(np.int32)])
