"""A folder of traces: append-only shards and a manifest. Written by many processes, read through memory maps."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from ekd.files import replace
from ekd.outside import plain_file, visible
from ekd.store import manifest as manifests
from ekd.store.codec import Layout
from ekd.store.shard import PackedTrace, Shard, assemble_shard, part, plain_digest
from ekd.types import Trace

OPEN = 128  # shards kept open at once: each holds a file descriptor
PATIENCE = 600.0  # seconds to wait for another writer, who needs milliseconds


class Store:
    """Traces by key. Opening reads only the manifest; a trace is decoded when it is asked for."""

    def __init__(self, path: Path | str):
        """Raises ValueError, one sentence, when `path` is not a store, is newer than this ekd, or is damaged."""
        self.path = Path(path)
        self._load(manifests.read_manifest(self.path))
        self._open: dict[str, Shard] = {}
        self._known: set[str] = set()  # shard files that the index covers
        self._where: dict[str, tuple[str, int]] = {}  # key -> (shard file, row)

    @classmethod
    def create(cls, path: Path | str, origin: dict[str, Any]) -> Store:
        """Make a store, or open one that was made in exactly the same way.

        origin: plain JSON values. `vocab` (entries of the teacher's softmax) is required; `temperatures` (columns of
        log_norm), `draws` (rows are counts of so many draws) and `coarse` (see codec.Layout) shape the rows; the rest
        is the caller's. Raises ValueError showing what differs when the store has another origin.
        """
        folder, origin = Path(path), json.loads(json.dumps(origin))
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
        self._load(manifests.read_manifest(self.path))
        self._scan()
        return set(self._where)

    def lengths(self) -> dict[str, tuple[int, int]]:
        """key -> (prompt tokens, response tokens), without decoding anything."""
        self._scan()
        out: dict[str, tuple[int, int]] = {}
        for file in dict.fromkeys(file for file, _ in self._where.values()):
            keys, *lengths = (self.shard(file).column(name) for name in ("key", "prompt", "response"))
            for row, (key, *both) in enumerate(zip(keys, *lengths, strict=True)):
                if self._where.get(key) == (file, row):
                    out[key] = (both[0], both[1])
        return out

    def verdicts(self) -> dict[str, str]:
        """key -> correct, wrong or unparseable; "" for a text that nobody graded. Without decoding anything."""
        self._scan()
        files = dict.fromkeys(file for file, _ in self._where.values())
        known = {file: self.shard(file).verdicts() for file in files}
        return {key: known[file][row] for key, (file, row) in self._where.items()}

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
        fresh = {part.about[0]: part for part in parts}
        if not fresh:
            return
        try:
            with lock(self.path):
                left = [fresh[key] for key in fresh.keys() - self.keys()]  # others may have finished some meanwhile
                if left:
                    self._record(write_shard(self.path, left, self.origin))
        except OSError as error:
            raise ValueError(
                f"{self.path}: {len(fresh)} traces could not be saved ({error}); the {len(self)} saved before are "
                "whole: make room or get write permission, and give the same command again"
            ) from error

    def tidy(self) -> None:
        """Take in whole shards that a killed writer had not yet put into the manifest; remove unfinished files."""
        try:
            with lock(self.path):
                self._load(manifests.read_manifest(self.path))
                for file in (self.path / "shards").glob("*.tmp"):
                    if plain_file(file):
                        file.unlink()
                for file in sorted((self.path / "shards").glob("*.arrows")):
                    if file.name not in self.shards and plain_file(file) and manifests.SHARD.fullmatch(file.name):
                        self._adopt(file)
        except OSError:
            return  # a read-only store is read as it is

    def _adopt(self, file: Path) -> None:
        name = plain_digest(file)
        if not name.startswith(file.stem):
            return  # damaged: `verify` names it
        shard = Shard(file)
        if shard.origin != self.origin:
            return
        self._scan()
        fresh = [shard.part(row) for row, key in enumerate(shard.column("key")) if key not in self._where]
        if len(fresh) == len(shard):
            self._record(entry(file, name, len(shard), sum(shard.column("response"))))
            return
        if fresh:  # another writer has made some of its traces since
            self._record(write_shard(self.path, fresh, self.origin))
        file.unlink()

    def _record(self, shard: dict[str, Any]) -> None:
        """The manifest comes last: a shard that it does not name does not exist."""
        manifest = manifests.read_manifest(self.path)
        manifest["shards"].append(shard)
        manifests.write_manifest(self.path, manifest)
        self._load(manifest)
        self._scan()

    def _load(self, manifest: dict[str, Any]) -> None:
        self.origin: dict[str, Any] = manifest["origin"]
        self.layout, self.teacher = layout_of(self.origin), teacher_of(self.origin)
        self.shards: dict[str, dict[str, Any]] = {shard["file"]: shard for shard in manifest["shards"]}

    def _scan(self) -> None:
        """Index the shards that are new in the manifest. What cannot be read is named and counts as not collected."""
        for file in [file for file in self.shards if file not in self._known]:
            self._known.add(file)
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

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.path,)  # loader workers open it for themselves


def lock(folder: Path) -> FileLock:
    """One writer at a time; the system frees it when its holder dies, however it dies."""
    manifests.check_folder(folder)
    return FileLock(folder / "lock", timeout=PATIENCE)


def start(folder: Path, origin: dict[str, Any]) -> None:
    """The first manifest, unless another writer was quicker. Raises ValueError where one has been lost."""
    if (folder / manifests.NAME).exists() or any((folder / "shards").glob("*.arrows")):
        manifests.read_manifest(folder)
    else:
        manifests.write_manifest(folder, manifests.new(origin))


def write_shard(folder: Path, parts: Sequence[PackedTrace], origin: dict[str, Any]) -> dict[str, Any]:
    """Writes a shard, named by its own sha256, and returns what the manifest has to say of it."""
    data = assemble_shard(sorted(parts, key=lambda part: part.about[0]), origin)
    name = hashlib.sha256(data).hexdigest()
    file = folder / "shards" / f"{name[:24]}.arrows"
    replace(file, data)
    return entry(file, name, len(parts), sum(part.about[6] for part in parts))


def entry(file: Path, name: str, traces: int, tokens: int) -> dict[str, Any]:
    return {"file": file.name, "sha256": name, "bytes": file.stat().st_size, "traces": traces, "tokens": tokens}


def layout_of(origin: dict[str, Any]) -> Layout:
    """Raises ValueError when the origin does not say how the rows look."""
    vocab, draws, coarse = origin.get("vocab"), origin.get("draws", 0), origin.get("coarse", 16)
    if not isinstance(vocab, int) or vocab < 1:
        raise ValueError(f"origin['vocab'] must be the size of the teacher's vocabulary, at least 1, not {vocab!r}")
    if not isinstance(draws, int) or not 0 <= draws < 1 << 16:
        raise ValueError(f"origin['draws'] must be an integer in 0 ... 65,535 (0: no sampling), not {draws!r}")
    if not isinstance(coarse, int) or not 1 <= coarse <= 64:
        raise ValueError(
            f"origin['coarse'] must be an integer in 1 ... 64 (largest step in 1/1024 nat), not {coarse!r}"
        )
    temperatures = origin.get("temperatures", [])
    if not isinstance(temperatures, list) or not all(isinstance(t, int | float) for t in temperatures):
        raise ValueError(f"origin['temperatures'] must be a list of numbers, not {temperatures!r}")
    align = origin.get("align", {})
    read = align.get("size", 0) if isinstance(align, dict) else None
    if not isinstance(read, int) or read < 0:
        raise ValueError(f"origin['align'] must say how rows were translated, not {align!r}")
    return Layout(vocab, draws, len(temperatures), coarse, read)


def teacher_of(origin: dict[str, Any]) -> str:
    """The name of the teacher: its model; "" where the store's maker did not say."""
    teacher = origin.get("teacher")
    if isinstance(teacher, dict):
        return str(teacher.get("model") or "")
    return teacher if isinstance(teacher, str) else ""


def what_differs(folder: Path, ours: dict[str, Any], asked: dict[str, Any]) -> str:
    """Both sides of every key that differs, nested ones as a.b, and the way out."""
    mine, theirs = flat_paths(ours), flat_paths(asked)
    names = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
    lines = [f"  {name}: {mine.get(name)!r} in the store, {theirs.get(name)!r} asked for" for name in names]
    return "\n".join(
        [
            f"the traces in {folder} were made differently:",
            *lines,
            "ask for what made them, or give another store folder",
        ]
    )


def flat_paths(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in tree.items():
        out |= flat_paths(value, f"{above}{name}.") if isinstance(value, dict) and value else {above + name: value}
    return out
