"""Who is at work on a store: a folder for each, with a lock that the system frees when its holder dies, however it
dies, and a heartbeat, for those on other machines and for a holder that was stopped. Of a store at an address the lock
lies on this machine.
"""

from __future__ import annotations

import os
from pathlib import Path
from secrets import token_hex
from threading import Event, Thread
from types import TracebackType

from filelock import FileLock, Timeout

from ekd.files import machine, process_name
from ekd.store.address import Address
from ekd.store.location import Location, check_link, folders_in, local_folder, remove_folder
from ekd.store.store import lock

FOLDER = "writers"  # within the store
BEAT, BEAT_FAR = 2.0, 5.0  # seconds from one heartbeat to the next; at an address, where each costs a request
PULSE, LOCK = "pulse", "lock"  # two files: to try a lock would look like a heartbeat
HERE = "here"  # at an address, where a late heartbeat would bring back a pulse that others have removed


class Presence:
    """Of one process, from `with` to its end. Raises ValueError where the store cannot be written."""

    folder: Location
    lock: FileLock

    def __init__(self, store: Location) -> None:
        self.store = store
        self.over = Event()

    def __enter__(self) -> Presence:
        try:
            with lock(self.store):  # whoever looks for the dead has it, too
                self.enter()
        except OSError as error:
            raise ValueError(f"{self.store} cannot be written ({error}): give a folder you may write to") from error
        Thread(target=self._beat, name="ekd-heartbeat", daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """A process that is stopped by an error leaves what it has not stored to others."""
        self.over.set()
        self.lock.release()
        if not list(self.folder.glob("*.arrows")):
            forget(self.folder)

    def enter(self) -> None:
        """Also again, under another name, where others took this process for dead (it was stopped for a while).

        Under the store's lock.
        """
        self.folder = self.store / FOLDER / f"{process_name()}-{token_hex(4)}"
        life(self.folder).parent.mkdir(parents=True)
        self.lock = FileLock(life(self.folder))
        self.lock.acquire(timeout=0)
        if isinstance(self.folder, Path):
            (self.folder / PULSE).touch()
        else:
            for name in (PULSE, HERE):
                (self.folder / name).write_bytes(b"")

    @property
    def taken(self) -> bool:
        """Whether others took this process for dead."""
        return not (self.folder / (PULSE if isinstance(self.folder, Path) else HERE)).exists()

    def _beat(self) -> None:
        while not self.over.wait(BEAT if isinstance(self.folder, Path) else BEAT_FAR):
            try:
                if isinstance(self.folder, Path):
                    os.utime(self.folder / PULSE)
                elif not self.taken:
                    (self.folder / PULSE).write_bytes(b"")
            except OSError:
                continue  # taken for dead, which `enter` will tell, or a network that will come back


def present(store: Location) -> list[Location]:
    """The folders of all, living and dead."""
    top = store / FOLDER
    check_link(top)
    return folders_in(top)


def is_dead(folder: Location, now: float, patience: float) -> bool:
    """now: by the store's own clock, which gives heartbeats their time. patience: seconds without one."""
    return now - last_sign(folder, now - patience - 1) > patience or (
        folder.name.startswith(f"{machine()}-") and _is_free(life(folder))
    )


def last_sign(folder: Location, never: float) -> float:
    if isinstance(folder, Address):
        return max((one.st_mtime for one in folder.listing()), default=never)
    try:
        return (folder / PULSE).lstat().st_mtime
    except FileNotFoundError:
        return folder.lstat().st_mtime if folder.exists() else never  # it has only just come, or left


def life(folder: Location) -> Path:
    """The lock of a process's folder."""
    return local_folder(folder.parent.parent) / FOLDER / folder.name / LOCK


def forget(folder: Location) -> None:
    remove_folder(folder)
    remove_folder(life(folder).parent)


def _is_free(path: Path) -> bool:
    if not path.is_file() or path.is_symlink():
        return False  # it has only just come
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    return True
