"""Traces of a store as what a loader reads from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch.utils.data import Dataset

from ekd.types import Trace


class Readable(Protocol):
    """A store, or several as one."""

    def lengths(self) -> dict[str, tuple[int, int]]: ...

    def __getitem__(self, key: str) -> Trace: ...


class Traces(Dataset[Trace]):
    """Found by key, never by order."""

    def __init__(self, store: Readable, keys: Sequence[str]) -> None:
        self.store, self.keys = store, list(keys)
        lengths = store.lengths()
        self.lengths = [sum(lengths[key]) for key in self.keys]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Trace:
        return self.store[self.keys[index]]
