"""A dataset is read once in a process, however many parts of a run ask for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from ekd.types import Problem

KEPT = 64  # lists of problems: three splits of some datasets, as they were read and as they are given out
Version = tuple[int, int, int] | None  # of a file: another whenever it is; None where there is none


class OfFiles(Protocol):
    def files(self) -> list[Path]:
        """What it is read from, on this machine; none where that is a hub, which is taken not to change."""


Reader = TypeVar("Reader", bound=OfFiles)
Given = ParamSpec("Given")


def remembered(read: Callable[[Reader, str], list[Problem]]) -> Callable[[Reader, str], list[Problem]]:
    """What was read is remembered by what the dataset was given, until one of its files is another."""
    known: dict[tuple[str, str], tuple[list[Version], list[Problem]]] = {}

    @wraps(read)
    def answered(self: Reader, split: str) -> list[Problem]:
        asked, now = (repr(self), split), [version(file) for file in self.files()]
        then, problems = known.pop(asked, (None, []))
        if then != now:
            problems = read(self, split)
        known[asked] = now, problems  # last, as it was asked for last
        while len(known) > KEPT:
            known.pop(next(iter(known)))
        return list(problems)

    return answered


def version(file: Path) -> Version:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
