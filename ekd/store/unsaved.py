"""Traces on their way into a store: each is on disk as soon as it is there, and a shard when there are enough.

A shard for each answer would be too many files, and a shard for many answers loses all of them when its process is
killed. So every trace waits as a small shard of its own in its process's folder, until `flush` makes one shard of all.
A kill loses none of them, a power failure those of the last second: to wait for the disk costs some ten milliseconds,
and a small teacher makes a trace in fewer.
"""

from __future__ import annotations

from pathlib import Path
from time import monotonic

from ekd.files import sync
from ekd.store.location import Location, files_in, may_write, now_at, put_soon, remove_folder
from ekd.store.presence import Presence, forget, is_dead, present
from ekd.store.shard import PackedTrace, Shard, assemble_shard
from ekd.store.store import Store, lock

BEFORE = "unsaved"  # within the store: where they waited when a store had one writer
SYNC_SECONDS = 1.0  # between two waits for the disk
PATIENCE = 60.0  # seconds without a heartbeat after which a process of another machine is taken for dead


class Unsaved:
    """The traces of one process. Raises ValueError, one sentence, where they cannot be written."""

    def __init__(self, store: Store, own: Presence) -> None:
        self.store, self.own = store, own
        self.parts: list[PackedTrace] = []
        self.files: list[Location] = []
        self.safe = 0  # of the files, that have reached the disk
        self.synced = -SYNC_SECONDS

    def add(self, packed: PackedTrace) -> None:
        file = self.own.folder / f"{packed.about[0]}.arrows"
        self.parts.append(packed)
        self.files.append(file)
        try:
            file.parent.mkdir(exist_ok=True)  # gone where others took this process for dead
            put_soon(file, assemble_shard([packed], self.store.origin))
            self._sync()
        except OSError as error:
            raise ValueError(
                f"{self.store.path}: a trace could not be saved ({error}); the {len(self.store)} saved before are "
                "whole: make room or get write permission, and give the same command again"
            ) from error

    def flush(self) -> None:
        """One shard of all that is waiting."""
        self.store.put(self.parts)
        for file in self.files:
            file.unlink(missing_ok=True)
        self.parts, self.files, self.safe = [], [], 0

    def _sync(self) -> None:
        if monotonic() - self.synced < SYNC_SECONDS:
            return
        if isinstance(self.own.folder, Path):  # at an address it is safe when it is written
            for file in self.files[self.safe :]:
                sync(self.own.folder / file.name)
            sync(self.own.folder)
        self.safe, self.synced = len(self.files), monotonic()


def recover(store: Store, patience: float = PATIENCE) -> int:
    """Takes in what dead processes left, and returns how many traces that were. Torn files are left out.

    Several may do so at once: a trace is stored before its file goes.
    """
    before = store.path / BEFORE
    if not may_write(store.path) or not (present(store.path) or before.is_dir()):
        return 0
    with lock(store.path):
        now = now_at(store.path)
        dead = [folder for folder in present(store.path) if is_dead(folder, now, patience)]
    files = [file for folder in (before, *dead) for file in files_in(folder, "*.arrows")]
    parts = [part for file in files for part in _read(file, store)]
    store.put(parts)
    remove_folder(before)
    for folder in dead:
        forget(folder)
    return len(parts)


def _read(file: Location, store: Store) -> list[PackedTrace]:
    try:
        shard = Shard(file)
        return [shard.part(row) for row in range(len(shard))] if shard.origin == store.origin else []
    except ValueError:
        return []
