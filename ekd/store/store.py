"""Traces in a folder or at an address: append-only shards, named by a manifest and by logs. Written by many processes,
read through memory maps.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from ekd.files import is_gone, process_name
from ekd.outside import visible
from ekd.store import manifest as manifests
from ekd.store.address import Address
from ekd.store.location import (
    FileVersion,
    Location,
    digest_of,
    files_in,
    is_plain,
    location,
    lock_of,
    put,
    version_of,
)
from ekd.store.log import Log, Logs, fold
from ekd.store.origin import layout_of, teacher_of, what_differs
from ekd.store.shard import PackedTrace, Shard, assemble_shard, part
from ekd.types import Trace

UNREAD: FileVersion = (0, 0, 0)  # of a manifest that is not there
OPEN = 4096  # shards kept open at once: each is a memory map, of which Linux allows 65,530, without a file descriptor


class Store:
    """Traces by key. Opening reads only the manifest and logs; a trace is decoded when it is asked for."""

    def __init__(self, path: Location | str):
        """Raises ValueError, one sentence, when `path` is not a store, is newer than this ekd, or is damaged."""
        self.path = location(path)
        self._log, self._logs, self._read = Log(self.path), Logs(self.path), UNREAD
        self._open: dict[str, Shard] = {}
        self._known: set[str] = set()  # shard files that the index covers
        self._new: list[str] = []  # those that it does not cover yet
        self._where: dict[str, tuple[str, int]] = {}  # key -> (shard file, row)
        self._refresh()

    @classmethod
    def create(cls, path: Location | str, origin: dict[str, Any]) -> Store:
        """Make a store, or open one that was made in exactly the same way.

        origin: plain JSON values. `vocab` (entries of the teacher's softmax) is required; `temperatures` (columns of
        log_norm), `draws` (rows are counts of so many draws) and `coarse` (see codec.Layout) shape the rows; the rest
        is the caller's. Raises ValueError showing what differs when the store has another origin.
        """
        folder, origin = location(path), json.loads(json.dumps(origin))
        layout_of(origin)
        try:
            (folder / "shards").mkdir(parents=True, exist_ok=True)
            if not (folder / manifests.NAME).exists():
                with lock(folder):
                    start(folder, origin)
        except OSError as error:
            raise ValueError(
                f"{folder} cannot be made a trace store ({error}): give a folder you may write to"
            ) from error
        store = cls(folder)
        if store.origin != origin:
            raise ValueError(what_differs(folder, store.origin, origin))
        store.tidy()
        return store

    def keys(self) -> set[str]:
        """Keys of finished, readable traces, with those that other processes have finished since."""
        self.refresh()
        return set(self._where)

    def refresh(self) -> None:
        """Takes in what other processes have finished since."""
        self._refresh()
        self._scan()

    def lengths(self) -> dict[str, tuple[int, int]]:
        """key -> (prompt tokens, response tokens), without decoding anything."""
        self._scan()
        files = dict.fromkeys(file for file, _ in self._where.values())
        known = {file: self.shard(file).lengths() for file in files}
        # in the order of the index: a look-up for each of a million keys would wait for memory each time
        return {key: known[file][row] for key, (file, row) in self._where.items()}

    def verdicts(self) -> dict[str, str]:
        """key -> correct, wrong or unparseable; "" for a text that nobody graded. Without decoding anything."""
        self._scan()
        files = dict.fromkeys(file for file, _ in self._where.values())
        known = {file: self.shard(file).verdicts() for file in files}
        return {key: known[file][row] for key, (file, row) in self._where.items()}

    def __contains__(self, key: object) -> bool:
        """As of the last look (`refresh`); asked for each of 100,000 keys, so it does not look again."""
        self._scan()
        return key in self._where

    def __len__(self) -> int:
        self._scan()
        return len(self._where)

    def __getitem__(self, key: str) -> Trace:
        """Raises KeyError for a key that is not there, ValueError naming file and trace for one that is damaged."""
        self._scan()
        file, row = self._where[key]
        try:
            trace = self.shard(file).trace(row, self.layout)
        except ValueError as error:
            way_out = f"`python -m ekd.store repair {self.path}` sets it aside, so that it is collected again"
            raise ValueError(f"{self.path}: {error}; {way_out}") from None
        lost = trace.ends is None and "align" in self.origin  # by an earlier ekd
        return trace._replace(teacher=self.teacher, ends=np.zeros(len(trace.valid), bool) if lost else trace.ends)

    def append(self, traces: Sequence[Trace]) -> None:
        """Add the sound ones as one shard, whole or not at all. Keys that are there are dropped.

        Raises ValueError: naming each unsound trace, once the others are saved; for a full disk or a folder that cannot
        be written. What was there stays.
        """
        parts, refused = [], []
        for trace in traces:
            if trace.key not in self._where:
                try:
                    parts.append(part(trace, self.layout))
                except ValueError as error:
                    refused.append(str(error))
        self.put(parts)
        if refused:
            raise ValueError(f"{self.path}: {'; '.join(refused)}; the other {len(parts)} are saved")

    def put(self, parts: Sequence[PackedTrace]) -> None:
        """`append` for traces that are packed already, e.g. from another store of the same origin."""
        self.refresh()
        fresh = {part.about[0]: part for part in parts if part.about[0] not in self._where}
        if not fresh:
            return
        try:
            shard = write_shard(self.path, list(fresh.values()), self.origin)
            with lock(self.path):
                self.refresh()
                left = [fresh[key] for key in fresh.keys() - self._where.keys()]  # others may have finished some by now
                if len(left) == len(fresh):
                    self._record(shard)
                    return
                if left:
                    self._record(write_shard(self.path, left, self.origin))
                if shard["file"] not in self.shards:
                    (self.path / "shards" / shard["file"]).unlink(missing_ok=True)
        except OSError as error:
            raise ValueError(
                f"{self.path}: {len(fresh)} traces could not be saved ({error}); the {len(self)} saved before are "
                "whole: make room or get write permission, and give the same command again"
            ) from error

    def tidy(self) -> None:
        """Fold the logs; take in whole shards that a killed writer had not yet named; remove unfinished files."""
        try:
            with lock(self.path):
                fold(self.path)
                self._refresh()
                for file in files_in(self.path / "shards", "*.tmp"):
                    writer = file.name.removesuffix(".tmp").partition(".arrows.")[2]
                    if is_plain(file) and (not writer or is_gone(writer)):
                        file.unlink()
                for file in files_in(self.path / "shards", "*.arrows"):
                    if file.name not in self.shards and is_plain(file) and manifests.SHARD.fullmatch(file.name):
                        self._adopt(file)
        except OSError:
            return  # a read-only store is read as it is

    def _adopt(self, file: Location) -> None:
        name = digest_of(file)
        if not name.startswith(file.stem):
            return  # damaged: `verify` names it
        shard = Shard(file)
        if shard.origin != self.origin:
            return
        self._scan()
        fresh = [shard.part(row) for row, key in enumerate(shard.column("key")) if key not in self._where]
        if len(fresh) == len(shard):
            self._record(entry(file, name, shard.column("key"), sum(shard.column("response"))))
            return
        if fresh:  # another writer has made some of its traces since
            self._record(write_shard(self.path, fresh, self.origin))
        file.unlink()

    def _record(self, shard: dict[str, Any]) -> None:
        """The name comes last: a shard that neither manifest nor log names does not exist."""
        self._log.add(shard)
        self.refresh()

    def _refresh(self) -> None:
        """What is new alone, but for a manifest that is another: a store may have many thousand shards."""
        new = self._logs.refresh()  # before the manifest, which has the shards of a log that is gone
        manifests.check_folder(self.path)
        read = version_of(self.path / manifests.NAME)
        if read != self._read or read == UNREAD:
            manifest, self._read = manifests.read_manifest(self.path), read
            self.origin: dict[str, Any] = manifest["origin"]
            self.layout, self.teacher = layout_of(self.origin), teacher_of(self.origin)
            self.shards: dict[str, dict[str, Any]] = {shard["file"]: shard for shard in manifest["shards"]}
            new = self.shards = self.shards | self._logs.shards
            self._new = []
        else:
            self.shards |= new
        self._new += [file for file in new if file not in self._known]  # not indexed yet

    def _scan(self) -> None:
        """Index the shards that are new in the manifest. What cannot be read is named and counts as not collected."""
        new, self._new = self._new, []
        for file in new:
            self._known.add(file)
            if "keys" in self.shards[file]:
                for row, key in enumerate(self.shards[file]["keys"]):
                    self._where.setdefault(key, (file, row))
                continue
            try:
                shard = self.shard(file)
                bad = shard.damaged() if shard.cut else set()
            except ValueError as error:
                warnings.warn(
                    visible(f"{self.path}: {error}; its {self.shards[file]['traces']} traces are left out"),
                    stacklevel=3,
                )
                continue
            keys = shard.column("key")
            if bad:
                names = ", ".join(keys[row] for row in sorted(bad))
                warnings.warn(visible(f"{self.path}: shard {file} was cut off; left out: {names}"), stacklevel=3)
            for row, key in enumerate(keys):
                if row not in bad:
                    self._where.setdefault(key, (file, row))

    def shard(self, file: str) -> Shard:
        """An open shard by its file name; the least recently opened ones are closed again."""
        if file not in self._open:
            if len(self._open) >= OPEN:
                self._open.pop(next(iter(self._open)))
            self._open[file] = Shard(self.path / "shards" / file, self.shards[file]["bytes"])
        return self._open[file]

    def __reduce__(self) -> tuple[type[Store], tuple[Location]]:
        return Store, (self.path,)  # loader workers open it for themselves


def lock(folder: Location) -> AbstractContextManager[object]:
    """One writer at a time; it is free again when its holder dies, however it dies."""
    manifests.check_folder(folder)
    return lock_of(folder)


def start(folder: Location, origin: dict[str, Any]) -> None:
    """The first manifest, unless another writer was quicker. Raises ValueError where one has been lost."""
    if (folder / manifests.NAME).exists() or any((folder / "shards").glob("*.arrows")):
        manifests.read_manifest(folder)
    else:
        manifests.write_manifest(folder, manifests.new(origin))


def write_shard(folder: Location, parts: Sequence[PackedTrace], origin: dict[str, Any]) -> dict[str, Any]:
    """Writes a shard, named by its own sha256, and returns what the manifest has to say of it."""
    data = assemble_shard(sorted(parts, key=lambda part: part.about[0]), origin)
    name = hashlib.sha256(data).hexdigest()
    file = folder / "shards" / f"{name[:24]}.arrows"
    put(file, data, process_name())
    return entry(file, name, sorted(part.about[0] for part in parts), sum(part.about[6] for part in parts))


def entry(file: Location, name: str, keys: list[str], tokens: int) -> dict[str, Any]:
    """At an address with the keys, in the order of the rows: who collects has no need of the shards of all others."""
    said = {"file": file.name, "sha256": name, "bytes": file.stat().st_size, "traces": len(keys), "tokens": tokens}
    return {**said, "keys": keys} if isinstance(file, Address) else said
