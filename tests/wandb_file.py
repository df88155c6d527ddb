"""Reads a .wandb file, as W&B 0.31 writes it. That version has no reader in Python any more; its messages are its own.

The frame is LevelDB's log format (https://github.com/google/leveldb/blob/main/doc/log_format.md) behind seven bytes of
header, with a plain CRC-32 of type and content.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, FRAME = 32768, struct.Struct("<IHB")  # CRC-32, length, type: 1 whole, 2 first, 3 middle, 4 last
HEADER = b":W&B"


class OfflineRun(NamedTuple):
    run: Any  # RunRecord: display_name, run_group, job_type, tags ...
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    stats: list[dict[str, Any]]
    exit: Any  # RunExitRecord, None of a run that was killed
    folder: Path
    artifacts: list[Any]  # ArtifactRecord: name, type, manifest, use_after_commit ...
    alerts: list[Any]  # AlertRecord: title, text, level


def read(folder: Path) -> OfflineRun:
    """folder: of an offline run."""
    (file,) = folder.glob("*.wandb")
    found: dict[str, list[Any]] = {}
    for record in records(file):
        kind = record.WhichOneof("record_type")
        found.setdefault(kind, []).append(getattr(record, kind))
    (run,) = found["run"]
    return OfflineRun(
        run=run,
        config=merged(item for record in found["config"] for item in record.update),
        history=[merged(record.item) for record in found["history"]],
        summary=merged(item for record in found["summary"] for item in record.update),
        stats=[merged(record.item) for record in found.get("stats", [])],
        exit=next(iter(found.get("exit", [])), None),
        folder=folder,
        artifacts=[*logged(found.get("request", [])), *found.get("artifact", [])],
        alerts=found.get("alert", []),
    )


def logged(requests: list[Any]) -> Iterator[Any]:
    return (request.log_artifact.artifact for request in requests if request.HasField("log_artifact"))


def merged(items: Any) -> dict[str, Any]:
    """Later values replace earlier ones. Parts of a nested key are joined by "/" as W&B shows them by "."."""
    nested = ((getattr(item, "nested_key", None), item) for item in items)
    return {"/".join(parts) if parts else item.key: json.loads(item.value_json) for parts, item in nested}


def records(file: Path) -> Iterator[Record]:
    """Raises ValueError where a byte is not as it was written."""
    content, at, kept = file.read_bytes(), 7, b""
    if not content.startswith(HEADER):
        raise ValueError(f"{file} is no .wandb file")
    while at + FRAME.size <= len(content):
        if BLOCK - at % BLOCK < FRAME.size:  # too little of the block is left for a frame
            at += BLOCK - at % BLOCK
            continue
        crc, size, kind = FRAME.unpack_from(content, at)
        piece = content[at + FRAME.size : at + FRAME.size + size]
        if zlib.crc32(piece, zlib.crc32(bytes([kind]))) != crc:
            raise ValueError(f"{file} is damaged at byte {at}")
        at += FRAME.size + size
        kept = piece if kind in (1, 2) else kept + piece
        if kind in (1, 4):
            yield Record.FromString(kept)
