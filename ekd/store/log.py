"""Logs: what has been finished since the manifest was written. Each writer has one of its own, a line for each shard.

So a shard costs its writer one line, however many shards there are, and no writer rewrites what others have said.
Readers take manifest and logs together; `fold` puts the logs into the manifest.
"""

from __future__ import annotations

import json
from secrets import token_hex
from typing import Any

from ekd.files import process_name
from ekd.store import manifest as manifests
from ekd.store.location import Location, add_line, check_link, files_in, read_from

FOLDER = "log"  # within the store


class Log:
    """Of one writer. Added to under the store's lock."""

    def __init__(self, store: Location) -> None:
        self.folder = store / FOLDER
        self.file: Location | None = None

    def add(self, shard: dict[str, Any]) -> None:
        """On disk when it returns. Raises OSError, after which the next line begins a file of its own."""
        fresh = self.file is None or not self.file.exists()  # somebody has folded it
        file = self.folder / f"{process_name()}-{token_hex(4)}.jsonl" if fresh or self.file is None else self.file
        self.file = None
        self.folder.mkdir(exist_ok=True)
        add_line(file, line_of(shard))
        self.file = file


class Logs:
    """Of all writers, read again and again: each line once."""

    def __init__(self, store: Location) -> None:
        self.folder = store / FOLDER
        self.shards: dict[str, dict[str, Any]] = {}  # by file
        self.read: dict[Location, int] = {}  # bytes of each log that was ever there

    def refresh(self) -> dict[str, dict[str, Any]]:
        """-> the shards that are new. Raises DamagedManifest for a whole line that no writer wrote; what a kill left
        half written is no line.
        """
        new: dict[str, dict[str, Any]] = {}
        for file in files_in(self.folder, "*.jsonl"):
            check_link(file)
            at = self.read.get(file, 0)
            try:
                content = read_from(file, at)
            except FileNotFoundError:  # folded by now
                continue
            whole = content[: content.rfind(b"\n") + 1]
            for line in whole.splitlines():
                shard = shard_of(line, file)
                new[shard["file"]] = shard
            self.read[file] = at + len(whole)
        self.shards |= new
        return new


def line_of(shard: dict[str, Any]) -> bytes:
    return json.dumps({**shard, "checksum": manifests.checksum(shard)}).encode() + b"\n"


def shard_of(line: bytes, file: Location) -> dict[str, Any]:
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


def whole_manifest(store: Location) -> dict[str, Any]:
    """The manifest with the shards of all logs. Raises ValueError as `read_manifest` does."""
    manifests.check_folder(store)
    logs = Logs(store)
    logs.refresh()  # first: a log goes once the manifest has its shards
    manifest = manifests.read_manifest(store)
    named = {shard["file"] for shard in manifest["shards"]}
    further = [shard for file, shard in logs.shards.items() if file not in named]
    return {**manifest, "shards": [*manifest["shards"], *further]}


def fold(store: Location) -> dict[str, Any]:
    """All logs into the manifest, which is returned. Under the store's lock."""
    files = files_in(store / FOLDER, "*.jsonl")
    manifest = whole_manifest(store)
    if files:
        manifests.write_manifest(store, manifest)
        drop(store)
    return manifest


def drop(store: Location) -> None:
    """Removes the logs, whose shards the manifest names by now."""
    for file in files_in(store / FOLDER, "*.jsonl"):
        file.unlink()
