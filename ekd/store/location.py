"""Where a store lies: a folder, or an address. What the two do differently is said here and nowhere else.

| | a folder | an address |
|---|---|---|
| a file is whole or absent | written aside, fsync, renamed | an object is |
| one writer at a time | a file lock that the system frees | exclusive create, see `AddressLock` |
| a line more | appended, fsync | the object is written again |
| read at random | a memory map | a memory map of a copy on this machine |
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from random import uniform
from secrets import token_hex
from time import monotonic, sleep
from types import TracebackType
from typing import TypeAlias

from filelock import FileLock

from ekd.files import digest, home, is_gone, process_name, replace, sync
from ekd.outside import check_plain, plain_file
from ekd.store.address import Address

Location: TypeAlias = "Path | Address"
FileVersion: TypeAlias = "tuple[int | str, int | float, int]"
PATIENCE = 600.0  # seconds to wait for another writer, who needs milliseconds
STALE = 60.0  # seconds after which a lock at an address is taken from a holder that has not freed it


def location(given: Path | Address | str) -> Location:
    """~ is the home folder, file:// a folder, and other words with :// are addresses."""
    if not isinstance(given, str):
        return given.expanduser() if isinstance(given, Path) else given
    if given.startswith("file://"):
        return Path(given.removeprefix("file://"))
    return Address(given) if "://" in given else Path(given).expanduser()


def local_folder(place: Location) -> Path:
    """A folder of this machine for what need not travel: the store itself, or where its copies are."""
    if isinstance(place, Path):
        return place
    name = re.sub(r"[^a-z0-9.]+", "-", str(place).lower())[:60]
    folder = home() / "copies" / f"{name}-{hashlib.sha256(str(place).encode()).hexdigest()[:10]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def near(file: Location, size: int | None = None) -> Path:
    """A shard as a file of this machine. size: bytes that it should have; a copy of that size is taken as it is, since
    shards never change. Raises OSError where it is not there.
    """
    if isinstance(file, Path):
        return file
    copy = local_folder(file.parent.parent) / file.parent.name / file.name
    if size is None or not copy.is_file() or copy.stat().st_size != size:
        copy.parent.mkdir(exist_ok=True)
        aside = copy.with_name(f"{copy.name}.{process_name()}.{token_hex(2)}.tmp")
        aside.write_bytes(file.read_bytes())
        aside.replace(copy)
    return copy


def put(file: Location, data: bytes, writer: str = "") -> None:
    """Whole or not at all. writer: a name, where several may write the same file at the same time."""
    if isinstance(file, Path):
        replace(file, data, writer)
    else:
        file.write_bytes(data)


def put_soon(file: Location, data: bytes) -> None:
    """The same, by a writer of its own; in a folder not forced to the disk."""
    if isinstance(file, Address):
        file.write_bytes(data)
        return
    aside = file.with_name(f"{file.name}.tmp")
    try:
        aside.write_bytes(data)
        aside.replace(file)
    except OSError:
        aside.unlink(missing_ok=True)  # on a full disk every byte counts
        raise


def add_line(file: Location, line: bytes) -> None:
    """To a file that nobody else writes; on the disk when it returns."""
    if isinstance(file, Address):
        file.write_bytes((file.read_bytes() if file.exists() else b"") + line)
        return
    fresh = not file.exists()
    with file.open("ab") as log:
        log.write(line)
        log.flush()
        os.fsync(log.fileno())
    if fresh:
        sync(file.parent)


def read_from(file: Location, at: int) -> bytes:
    """From a byte on. A folder's file is opened: over a network only that looks anew."""
    if isinstance(file, Address):
        return file.read_bytes(at)
    with file.open("rb") as opened:
        opened.seek(at)
        return opened.read()


def version_of(file: Location) -> FileVersion:
    """Another whenever the file is; zeros where there is none."""
    try:
        if isinstance(file, Address):
            now = file.stat()
            return now.tag, now.st_mtime, now.st_size
        with file.open("rb") as opened:
            found = os.fstat(opened.fileno())
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_mtime_ns, found.st_size


def check_link(place: Location) -> None:
    """Raises ValueError for a link or a device in a folder; an address has neither."""
    if isinstance(place, Path):
        check_plain(place)


def is_plain(file: Location) -> bool:
    return plain_file(file) if isinstance(file, Path) else file.is_file()


def digest_of(file: Location) -> str:
    """sha256 of what is there, not of a copy. Raises ValueError for a link or a device, which might never end."""
    check_link(file)
    return digest(file) if isinstance(file, Path) else hashlib.sha256(file.read_bytes()).hexdigest()


def files_in(folder: Location, pattern: str) -> list[Location]:
    """Sorted by name; none where there is no folder."""
    if isinstance(folder, Address):
        return list(folder.glob(pattern))
    return sorted(folder.glob(pattern))


def move(file: Location, folder: Location) -> None:
    """Into a folder, which is made where there is none. At an address not in one step: for a moment both are there."""
    folder.mkdir(exist_ok=True)
    if isinstance(file, Path) and isinstance(folder, Path):
        file.replace(folder / file.name)
    else:
        (folder / file.name).write_bytes(file.read_bytes())
        file.unlink()


def folders_in(top: Location) -> list[Location]:
    if isinstance(top, Address):
        return [top / one.name for one in top.listing() if one.folder]
    return sorted(folder for folder in top.glob("*") if folder.is_dir() and not folder.is_symlink())


def remove_folder(folder: Location) -> None:
    if isinstance(folder, Address):
        folder.remove()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def may_write(folder: Location) -> bool:
    """Whether it is worth trying: an address says so only when it is tried."""
    return isinstance(folder, Address) or os.access(folder, os.W_OK)


def now_at(folder: Location) -> float:
    """Seconds by the store's own clock, which dates its files: the clocks of two machines may differ."""
    if isinstance(folder, Address):
        mark: Location = folder / "clock"
        mark.write_bytes(b"")
    else:
        mark = folder / "lock"
        mark.touch()
    return mark.stat().st_mtime


def lock_of(folder: Location) -> AbstractContextManager[object]:
    """One writer at a time; freed when its holder dies, at an address after a while."""
    return FileLock(folder / "lock", timeout=PATIENCE) if isinstance(folder, Path) else AddressLock(folder)


class AddressLock:
    """Objects lock/1, lock/2, ...: who creates the next number, once the last is free, has the lock, and frees it by
    making it empty. The highest number is never removed, so a late comer that creates one that was there before sees a
    higher one and gives way. A holder that did not free it is dead: known at once on its own machine, elsewhere after
    STALE seconds in which nothing changed, by the clock of the one who waits.

    Should a holder be stopped for so long, and go on, then a trace may be named twice and work be done twice, no more.
    """

    def __init__(self, folder: Address) -> None:
        self.top, self.own = folder / "lock", folder

    def __enter__(self) -> AddressLock:
        check_exclusive(self.top)
        seen, began, since = -1, monotonic(), monotonic()
        while monotonic() - began < PATIENCE:
            last, held = self._last()
            if last != seen:
                seen, since = last, monotonic()
            if (not held or self._is_dead(last, since)) and self._takes(last + 1):
                return self
            sleep(uniform(0.01, 0.1))
        raise TimeoutError(
            f"{self.top} is held by another process: try again, or remove it while no process is at work"
        )

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.own.write_bytes(b"")

    def _last(self) -> tuple[int, bool]:
        """The highest number, and whether it is held."""
        known = [one for one in self.top.listing() if one.name.isdecimal()]
        return (int(known[-1].name), known[-1].st_size > 0) if known else (0, False)

    def _takes(self, number: int) -> bool:
        self.own = self.top / f"{number:012d}"
        try:
            self.own.create(process_name().encode())
        except FileExistsError:
            return False
        if self._last()[0] != number:
            self.own.unlink(missing_ok=True)
            return False
        for one in self.top.listing():
            if one.name.isdecimal() and int(one.name) < number:
                (self.top / one.name).unlink(missing_ok=True)
        return True

    def _is_dead(self, number: int, since: float) -> bool:
        try:
            holder = (self.top / f"{number:012d}").read_text()
        except FileNotFoundError:
            return False
        return is_gone(holder) if holder and monotonic() - since <= STALE else bool(holder)


CHECKED: set[str] = set()  # protocols of which it was seen that they create exclusively


def check_exclusive(top: Address) -> None:
    """Raises ValueError where a second writer would not be told of the first. Tried out, once for each protocol."""
    if top.protocol in CHECKED:
        return
    probe, refused = top / f"probe-{token_hex(4)}", False
    _ = probe.fs  # a package that is missing says so itself
    try:
        probe.create(b"1")
        probe.create(b"2")
    except FileExistsError:
        refused = True
    except (NotImplementedError, TypeError, ValueError):  # what backends say that know no exclusive create
        refused = False
    probe.unlink(missing_ok=True)
    if not refused:
        raise ValueError(
            f"{top.parent} cannot be written: {top.protocol}:// cannot create an object only where there is none, "
            "so two writers would not know of each other; trace into a folder and copy it there (it can then be read)"
        )
    CHECKED.add(top.protocol)
