"""A folder of traces: append-only shards and a manifest. Written by many processes, read through memory maps."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from ekd.store import manifest as manifests
from ekd.store.codec import Layout
from ekd.store.shard import Shard, build
from ekd.types import Trace

OPEN = 128  # shards kept open at once: each holds a file descriptor
LOCK = "lock"


class Store:
    """Traces by key. Opening reads only the manifest; a trace is decoded when it is asked for."""

    def __init__(self, path: Path | str):
        """Raises ValueError when `path` is not a store, is newer than this ekd, or its manifest is damaged."""
        self.path = Path(path)
        self._load(manifests.read(self.path))
        self._open: dict[str, Shard] = {}
        self._where: dict[str, tuple[str, int]] = {}  # key -> (shard file, row)
        self._known: set[str] = set()  # shard files that _where covers
        self._lengths: dict[str, tuple[int, int]] = {}

    @classmethod
    def create(cls, path: Path | str, origin: dict[str, Any]) -> Store:
        """Make a store, or open one that was made in exactly the same way.

        Raises ValueError showing what differs when its origin is another.
        """
        folder, origin = Path(path), json.loads(json.dumps(origin))
        layout_of(origin)
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK):
            if not (folder / manifests.NAME).exists():
                manifests.write(folder, manifests.new(origin))
        store = cls(folder)
        if store.origin != origin:
            raise ValueError(difference(folder, store.origin, origin))
        return store

    def keys(self) -> set[str]:
        """Keys of finished, readable traces, with those that other processes have finished since."""
        self._load(manifests.read(self.path))
        self._scan()
        return set(self._where)

    def lengths(self) -> dict[str, tuple[int, int]]:
        """key -> (prompt tokens, response tokens), without decoding anything."""
        self._scan()
        return dict(self._lengths)

    def __len__(self) -> int:
        self._scan()
        return len(self._where)

    def __getitem__(self, key: str) -> Trace:
        """Raises KeyError for a key that is not there, ValueError naming file and trace for one that is damaged."""
        self._scan()
        file, row = self._where[key]
        return self._shard(file).trace(row, self.layout)

    def append(self, traces: Sequence[Trace]) -> None:
        """Add traces as one shard: all of them or, if anything goes wrong, none. Known keys are dropped."""
        fresh = {trace.key: trace for trace in reversed(traces) if trace.key not in self._where}
        if not fresh:
            return
        data = build(list(reversed(fresh.values())), self.layout, self.origin)
        with FileLock(self.path / LOCK):
            known = self.keys()  # reads the manifest again: other writers may have finished some of these
            if fresh.keys() & known:
                left = [trace for trace in traces if trace.key in fresh.keys() - known]
                data = build(left, self.layout, self.origin) if left else b""
            if data:
                self._add(data)
        self._scan()

    def _add(self, data: bytes) -> None:
        name = hashlib.sha256(data).hexdigest()
        file = f"{name[:24]}.arrows"
        manifests.replace(self.path / "shards" / file, data)
        manifest = manifests.read(self.path)
        manifest["shards"].append({"file": file, "sha256": name, "bytes": len(data)})
        manifests.write(self.path, manifest)
        self._load(manifest)

    def _load(self, manifest: dict[str, Any]) -> None:
        self.origin: dict[str, Any] = manifest["origin"]
        self.layout = layout_of(self.origin)
        self.shards: dict[str, dict[str, Any]] = {shard["file"]: shard for shard in manifest["shards"]}

    def _scan(self) -> None:
        """Index the shards that are new in the manifest; a shard that cannot be read is named and left out."""
        for file in self.shards.keys() - self._known:
            self._known.add(file)
            try:
                shard = self._shard(file)
            except ValueError as error:
                warnings.warn(f"{self.path}: {error}; its traces count as not collected", stacklevel=3)
                continue
            keys, prompts, responses = (shard.column(name) for name in ("key", "prompt", "response"))
            for row, key in enumerate(keys):
                self._where.setdefault(key, (file, row))
                self._lengths.setdefault(key, (prompts[row], responses[row]))

    def _shard(self, file: str) -> Shard:
        if file not in self._open:
            if len(self._open) >= OPEN:
                self._open.pop(next(iter(self._open)))
            self._open[file] = Shard(self.path / "shards" / file, self.shards[file]["bytes"])
        return self._open[file]

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.path,)  # loader workers open it for themselves


def layout_of(origin: dict[str, Any]) -> Layout:
    """Raises ValueError when the origin does not say how large the vocabulary is."""
    vocab = origin.get("vocab")
    if not isinstance(vocab, int) or vocab < 1:
        raise ValueError(f"origin['vocab'] must be the teacher's vocabulary size, a positive integer, not {vocab!r}")
    return Layout(vocab, origin.get("draws", 0), len(origin.get("temperatures", [])), origin.get("coarse", 16))


def difference(folder: Path, ours: dict[str, Any], asked: dict[str, Any]) -> str:
    names = sorted(name for name in ours.keys() | asked.keys() if ours.get(name) != asked.get(name))
    lines = [f"  {name}: store {ours.get(name)!r}, asked for {asked.get(name)!r}" for name in names]
    return (
        f"{folder} was made differently:\n" + "\n".join(lines) + "\nask for what made it, or give another store folder"
    )
