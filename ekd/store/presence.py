"""Who is at work on a store: a folder for each, with a lock that the system frees when its holder dies, however it
dies, and a heartbeat, for those on other machines and for a holder that was stopped.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from secrets import token_hex
from threading import Event, Thread
from types import TracebackType

from filelock import FileLock, Timeout

from ekd.files import machine, process_name
from ekd.outside import check_plain
from ekd.store.store import lock

FOLDER = "writers"  # within the store
BEAT = 2.0  # seconds from one heartbeat to the next
PULSE, LOCK = "pulse", "lock"  # two files: to try a lock would look like a heartbeat


class Presence:
    """Of one process, from `with` to its end. Raises ValueError where the store cannot be written."""

    folder: Path
    lock: FileLock

    def __init__(self, store: Path) -> None:
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
            shutil.rmtree(self.folder, ignore_errors=True)

    def enter(self) -> None:
        """Also again, under another name, where others took this process for dead (it was stopped for a while).

        Under the store's lock.
        """
        self.folder = self.store / FOLDER / f"{process_name()}-{token_hex(4)}"
        self.folder.mkdir(parents=True)
        self.lock = FileLock(self.folder / LOCK)
        self.lock.acquire(timeout=0)
        (self.folder / PULSE).touch()

    @property
    def taken(self) -> bool:
        """Whether others took this process for dead."""
        return not (self.folder / PULSE).exists()

    def _beat(self) -> None:
        while not self.over.wait(BEAT):
            try:
                os.utime(self.folder / PULSE)
            except OSError:
                continue  # taken for dead: `enter` will tell


def present(store: Path) -> list[Path]:
    """The folders of all, living and dead."""
    top = store / FOLDER
    check_plain(top)
    return sorted(folder for folder in top.glob("*") if folder.is_dir() and not folder.is_symlink())


def is_dead(folder: Path, now: float, patience: float) -> bool:
    """now: by the clock of the disk, which gives heartbeats their time. patience: seconds without one."""
    try:
        silent = now - (folder / PULSE).lstat().st_mtime
    except FileNotFoundError:
        silent = now - folder.lstat().st_mtime if folder.exists() else patience + 1  # it has only just come, or left
    return silent > patience or (folder.name.startswith(f"{machine()}-") and _is_free(folder / LOCK))


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


def disk_time(store: Path) -> float:
    """Seconds, as the disk counts them: the clocks of two machines may differ, that of a disk does not."""
    mark = store / "lock"
    mark.touch()
    return mark.stat().st_mtime
