"""Integer arrays <-> bytes: one zstd frame for each byte plane, nothing for a plane of zeros. Pure functions.

Bytes of one weight have one distribution, so each plane gets an entropy code of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

ZSTD = pa.Codec("zstd", compression_level=19)  # measured: 7% smaller than level 9, and still 40 MB/s here
TABLE = 255  # symbols of an id table: one byte, 0 is kept for "not in the table"
OFTEN = 3  # an id that occurs less often costs more in the table than it saves


class Writer:
    """Collects planes; `bytes()` gives the sizes (varints) and then the planes."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.parts: list[bytes] = []

    def number(self, value: int) -> None:
        self.sizes.append(value)

    def plane(self, plane: np.ndarray) -> None:
        plain = plane.tobytes() if plane.any() else b""
        small = ZSTD.compress(plain, asbytes=True) if plain else b""
        part = small if len(small) < len(plain) else plain
        self.sizes.append(len(part))
        self.parts.append(part)

    def integers(self, value: np.ndarray, width: int) -> None:
        """Non-negative integers of at most `width` bytes. Raises ValueError when one does not fit."""
        if len(value) and int(value.max()) >> (8 * width):
            raise ValueError(f"{int(value.max())} does not fit in {width} bytes")
        wide = np.ascontiguousarray(value, "<i8").view(np.uint8).reshape(-1, 8)
        for i in range(width):
            self.plane(wide[:, i])

    def ids(self, value: np.ndarray, width: int) -> None:
        """Ids: one byte each for the trace's 255 most frequent, `width` bytes for the others."""
        known, at, times = np.unique(value, return_inverse=True, return_counts=True)
        top = np.argsort(-times, kind="stable")[:TABLE]
        top = np.sort(top[times[top] >= OFTEN])
        symbol = np.zeros(len(known), np.uint8)
        symbol[top] = np.arange(1, len(top) + 1)
        symbols = symbol[at]
        self.number(len(top))
        self.integers(np.diff(known[top], prepend=0), width)
        self.plane(symbols)
        self.integers(value[symbols == 0], width)

    def bytes(self) -> bytes:
        return b"".join([varints(self.sizes), *self.parts])


class PlaneReader:
    """Takes the planes back in the order in which they were written; lengths are the caller's."""

    def __init__(self, payload: bytes | pa.Buffer) -> None:
        self.view = memoryview(payload).cast("B")
        self.sizes, self.at = unvarints(self.view)

    def number(self) -> int:
        return next(self.sizes)

    def plane(self, count: int) -> np.ndarray:
        plane = self._plane(count)
        return np.zeros(count, np.uint8) if plane is None else plane

    def _plane(self, count: int) -> np.ndarray | None:
        """None for a plane of zeros."""
        size = next(self.sizes)
        if not size:
            return None
        part = self.view[self.at : self.at + size]
        self.at += size
        return np.frombuffer(part if size == count else ZSTD.decompress(part, count, asbytes=True), np.uint8)

    def integers(self, count: int, width: int) -> np.ndarray:
        value = np.zeros(count, np.int64)
        for i in range(width):
            plane = self._plane(count)
            if plane is not None:
                value |= plane.astype(np.int64) << (8 * i)
        return value

    def ids(self, count: int, width: int) -> np.ndarray:
        size = self.number()
        table = np.concatenate([[0], np.cumsum(self.integers(size, width))])
        symbols = self.plane(count)
        value: np.ndarray = table[symbols]
        rare = symbols == 0
        value[rare] = self.integers(int(rare.sum()), width)
        return value


def varints(values: Iterable[int]) -> bytes:
    """How many, then each: seven bits a byte, low bits first, the top bit says that more follow."""
    values = list(values)
    out = bytearray()
    for value in (len(values), *values):
        while value > 127:
            out.append(value & 127 | 128)
            value >>= 7
        out.append(value)
    return bytes(out)


def unvarints(view: memoryview) -> tuple[Iterator[int], int]:
    values: list[int] = []
    at, many = 0, 1
    while len(values) < many:
        value = shift = 0
        while view[at] > 127:
            value |= (view[at] & 127) << shift
            at, shift = at + 1, shift + 7
        values.append(value | view[at] << shift)
        at += 1
        many = values[0] + 1
    return iter(values[1:]), at
