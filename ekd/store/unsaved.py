"""Traces on their way into a store: each is on disk as soon as it is there, and a shard when there are enough.

A shard for each answer would be too many files, and a shard for many answers loses all of them when its process is
killed. So every trace waits as a small shard of its own beside the others, on the disk itself (neither a kill nor a
power failure loses it), until `flush` makes one shard of all of them.
"""

from __future__ import annotations

import os
from pathlib import Path

from ekd.files import sync
from ekd.store.shard import PackedTrace, Shard, assemble_shard
from ekd.store.store import Store

FOLDER = "unsaved"  # within the store


class Unsaved:
    """The traces of one process. Raises ValueError, one sentence, where they cannot be written."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.folder = store.path / FOLDER
        self.parts: list[PackedTrace] = []
        self.files: list[Path] = []

    def add(self, packed: PackedTrace) -> None:
        file = self.folder / f"{packed.about[0]}.arrows"
        aside = file.with_name(f"{file.name}.{os.getpid()}.tmp")
        self.parts.append(packed)
        self.files.append(file)
        try:
            self.folder.mkdir(exist_ok=True)
            aside.write_bytes(assemble_shard([packed], self.store.origin))
            sync(aside)
            aside.replace(file)
            sync(self.folder)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise ValueError(
                f"{self.store.path}: a trace could not be saved ({error}); the {len(self.store)} saved before are "
                "whole: make room or get write permission, and give the same command again"
            ) from error

    def flush(self) -> None:
        """One shard of all that is waiting."""
        self.store.put(self.parts)
        for file in self.files:
            file.unlink(missing_ok=True)
        self.parts, self.files = [], []


def recover(store: Store) -> int:
    """Takes in what a killed process left, and returns how many traces that were. Torn files are left out."""
    folder = store.path / FOLDER
    left = sorted(folder.glob("*.arrows")) if os.access(store.path, os.W_OK) else []
    parts = [part for file in left for part in _read(file, store)]
    store.put(parts)
    for file in left:
        file.unlink(missing_ok=True)
    return len(parts)


def _read(file: Path, store: Store) -> list[PackedTrace]:
    if file.is_symlink():
        return []
    try:
        shard = Shard(file)
        return [shard.part(row) for row in range(len(shard))] if shard.origin == store.origin else []
    except ValueError:
        return []
