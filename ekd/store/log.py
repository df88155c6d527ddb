"""Logs: what has been finished since the manifest was written. Each writer has one of its own, a line for each shard.

So a shard costs its writer one line, however many shards there are, and no writer rewrites what others have said.
Readers take manifest and logs together; `fold` puts the logs into the manifest.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from secrets import token_hex
from typing import Any

from ekd.files import process_name, sync
from ekd.outside import check_plain
from ekd.store import manifest as manifests

FOLDER = "log"  # within the store


class Log:
    """Of one writer. Added to under the store's lock."""

    def __init__(self, store: Path) -> None:
        self.folder = store / FOLDER
        self.file: Path | None = None

    def add(self, shard: dict[str, Any]) -> None:
        """On disk when it returns. Raises OSError, after which the next line begins a file of its own."""
        fresh = self.file is None or not self.file.exists()  # somebody has folded it
        file = self.folder / f"{process_name()}-{token_hex(4)}.jsonl" if fresh or self.file is None else self.file
        self.file = None
        self.folder.mkdir(exist_ok=True)
        with file.open("ab") as log:
            log.write(line_of(shard))
            log.flush()
            os.fsync(log.fileno())
        if fresh:
            sync(self.folder)
        self.file = file


class Logs:
    """Of all writers, read again and again: each line once."""

    def __init__(self, store: Path) -> None:
        self.folder = store / FOLDER
        self.shards: dict[str, dict[str, Any]] = {}  # by file
        self.read: dict[Path, int] = {}  # bytes of each log that was ever there

    def refresh(self) -> None:
        """Raises DamagedManifest for a whole line that no writer wrote; what a kill left half written is no line."""
        for file in sorted(self.folder.glob("*.jsonl")):
            check_plain(file)
            at = self.read.get(file, 0)
            try:
                with file.open("rb") as log:
                    log.seek(at)
                    content = log.read()
            except FileNotFoundError:  # folded by now
                continue
            whole = content[: content.rfind(b"\n") + 1]
            for line in whole.splitlines():
                shard = shard_of(line, file)
                self.shards[shard["file"]] = shard
            self.read[file] = at + len(whole)


def line_of(shard: dict[str, Any]) -> bytes:
    return json.dumps({**shard, "checksum": manifests.checksum(shard)}).encode() + b"\n"


def shard_of(line: bytes, file: Path) -> dict[str, Any]:
    try:
        shard = json.loads(line)
        sound = isinstance(shard, dict) and shard.pop("checksum", None) == manifests.checksum(shard)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        sound = False
    if not sound or manifests.strange_shard(shard):
        raise manifests.DamagedManifest(
            f"{file} is damaged (a line is not as it was written): `python -m ekd.store repair {file.parent.parent}` "
            "rebuilds it from the shards"
        )
    return dict(shard)


def whole_manifest(store: Path) -> dict[str, Any]:
    """The manifest with the shards of all logs. Raises ValueError as `read_manifest` does."""
    manifests.check_folder(store)
    logs = Logs(store)
    logs.refresh()  # first: a log goes once the manifest has its shards
    manifest = manifests.read_manifest(store)
    named = {shard["file"] for shard in manifest["shards"]}
    further = [shard for file, shard in logs.shards.items() if file not in named]
    return {**manifest, "shards": [*manifest["shards"], *further]}


def fold(store: Path) -> dict[str, Any]:
    """All logs into the manifest, which is returned. Under the store's lock."""
    files = sorted((store / FOLDER).glob("*.jsonl"))
    manifest = whole_manifest(store)
    if files:
        manifests.write_manifest(store, manifest)
        drop(store)
    return manifest


def drop(store: Path) -> None:
    """Removes the logs, whose shards the manifest names by now."""
    for file in (store / FOLDER).glob("*.jsonl"):
        file.unlink()
