"""Files that are whole or absent: temp-and-rename writing, fsync, digests, locks; where ekd keeps its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ekd.outside import check_plain

SEAL = "digests.json"  # of a folder that ekd made: name -> [bytes, sha256] of each file in it
ASIDE = ".aside"  # the end of a folder's name while it is being made


class Damaged(ValueError):
    """A file that is not as it was written."""


def home() -> Path:
    """Where ekd keeps what it makes once: converted models and traces. EKD_HOME moves it."""
    return Path(os.environ.get("EKD_HOME") or Path.home() / ".cache" / "ekd")


def replace(path: Path, data: bytes, writer: str = "") -> None:
    """Write a file so that, whatever happens, the old or the new one is there, whole.

    writer: a name, where several may write the same file at the same time.
    """
    temporary = path.with_name(f"{path.name}{writer and '.'}{writer}.tmp")
    temporary.unlink(missing_ok=True)  # of a killed writer; a link that somebody put there would be written through
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # on a full disk every byte counts
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """What was written to a file, or renamed in a folder, has reached the disk: it survives a power loss."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@cache
def machine() -> str:
    """Where a process number is that of one process: the host, and on Linux its name space of processes."""
    host = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())
    space = Path("/proc/self/ns/pid")
    return f"{host}.{space.stat().st_ino}" if space.exists() else host


def process_name() -> str:
    return f"{machine()}-{os.getpid()}"


def is_gone(process: str) -> bool:
    """Whether a process of this machine has ended, by its `process_name`; of other machines it is not known."""
    host, _, number = process.rpartition("-")
    if host not in ("", machine()) or not number.isdecimal():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def digest(path: Path, size: int | None = None) -> str:
    """sha256 of every byte, or of the first `size`, in constant memory."""
    found, left = hashlib.sha256(), path.stat().st_size if size is None else size
    with path.open("rb") as file:
        while left > 0 and (piece := file.read(min(left, 2**20))):
            found.update(piece)
            left -= len(piece)
    return found.hexdigest()


def whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that grows a line at a time, numbered from 1; none where there is no file.

    What a kill left half written at the end is no line. Raises ValueError for a link or a device.
    """
    check_plain(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:  # not yet, or not any more: another process may have removed it a moment ago
        return
    yield from enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1)


def cut_torn(path: Path) -> None:
    """Cuts off a last line that a kill left half written: the next must not be appended to it."""
    content = path.read_bytes() if path.exists() else b""
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """With a checksum over the content, so that any damage is found on reading."""
    plain = json.loads(json.dumps(content, default=str))  # as it will be read: keys are texts, tuples are lists
    replace(path, json.dumps({**plain, "checksum": _checksum(plain)}, indent=1).encode())


def read_json(path: Path, *, checksum: bool = False) -> dict[str, Any]:
    """Raises Damaged, which names the file, and ValueError for a link or a device. checksum: Damaged without one, too;
    else it may have been written by hand.
    """
    check_plain(path)
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error})") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested without end
        raise Damaged(f"{path} is damaged ({error})") from None
    if not isinstance(content, dict):
        raise Damaged(f"{path} is damaged (it holds no object)")
    written = content.pop("checksum", None)
    if written != _checksum(content) and (checksum or written is not None):
        raise Damaged(f"{path} is damaged or was edited (its checksum does not match)")
    return content


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def seal(folder: Path) -> None:
    """Write down what a folder holds, last of all."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != SEAL)
    for file in files:
        sync(file)
    write_json(folder / SEAL, {str(f.relative_to(folder)): [f.stat().st_size, digest(f)] for f in files})


def is_complete(folder: Path) -> bool:
    """Whether all files of a sealed folder are there, in their size: what a half copy would leave out."""
    if not (folder / SEAL).is_file():
        return False
    try:
        return all(
            (folder / name).stat().st_size == size
            for name, (size, _) in read_json(folder / SEAL, checksum=True).items()
        )
    except (FileNotFoundError, Damaged):
        return False


def check_seal(
    folder: Path, chosen: Callable[[str], bool] = lambda name: True, *, sha256: Callable[[Path], str] = digest
) -> None:
    """Every chosen file is as it was written. Raises Damaged, which names it. What has no seal is not of our making."""
    if not (folder / SEAL).is_file():
        return
    for name, known in read_json(folder / SEAL, checksum=True).items():
        file = folder / name
        if chosen(name) and (not file.is_file() or [file.stat().st_size, sha256(file)] != known):
            what = "is damaged or was changed since ekd wrote it" if file.is_file() else "is missing"
            raise Damaged(f"{file} {what}: restore it, or, if the change is yours, delete {folder / SEAL}")


def make_folder(folder: Path, fill: Callable[[Path], None], *, again: bool = True) -> None:
    """`fill` fills a folder that then takes the place of `folder`, sealed: complete or absent. One process at a time.

    again: also where a complete one is there. What a kill left behind is removed at the next start by `clean`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    clear_killed(folder.parent)
    with acquire(_making(folder), f"makes {folder}"):
        if not again and is_complete(folder):
            return
        fresh = folder.with_name(f".{folder.name}{ASIDE}")
        fresh.mkdir()
        try:
            fill(fresh)
            seal(fresh)
            if folder.exists():
                shutil.rmtree(folder)
            fresh.rename(folder)
            sync(folder.parent)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def clear_killed(parent: Path) -> None:
    """Removes what killed processes were making in there; not what a living one makes."""
    for left in parent.glob(f".*{ASIDE}"):
        lock = _making(left.with_name(left.name[1 : -len(ASIDE)]))
        try:
            with lock.acquire(timeout=0):
                shutil.rmtree(left, ignore_errors=True)
        except Timeout:
            continue


def _making(folder: Path) -> FileLock:
    return FileLock(folder.with_name(f".{folder.name}.lock"))


def acquire(lock: FileLock, why: str) -> FileLock:
    """Takes it, at once or after saying why not. Released by `with`, by `release`, or by the end of the process."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another process {why}; waiting for it ...", flush=True)
        lock.acquire()
    return lock
