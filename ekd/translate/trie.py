"""Byte strings in sorted order: all that begin with one prefix lie side by side."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable


class Trie:
    """texts: of each id; b"" stands for none. Of several ids with the same bytes the first given is kept."""

    def __init__(self, texts: Iterable[tuple[int, bytes]]) -> None:
        self.id_of: dict[bytes, int] = {}
        for i, text in texts:
            if text:
                self.id_of.setdefault(text, i)
        self.sorted = sorted(self.id_of)
        self.longest = max(map(len, self.sorted), default=0)

    def beyond(self, text: bytes) -> tuple[int, int]:
        """Where in `sorted` those lie that begin with `text` and go on: first, last + 1."""
        last = bisect_left(self.sorted, _after(text)) if text.strip(b"\xff") else len(self.sorted)
        return bisect_right(self.sorted, text), last

    def cut(self, text: bytes) -> tuple[int, ...]:
        """The ids that spell `text`, each as long as can be; () where some byte has none."""
        found, at = [], 0
        while at < len(text):
            for end in range(min(len(text), at + self.longest), at, -1):
                if (i := self.id_of.get(text[at:end])) is not None:
                    break
            else:
                return ()
            found.append(i)
            at = end
        return tuple(found)


def _after(text: bytes) -> bytes:
    """The least byte string above all that begin with `text`."""
    text = text.rstrip(b"\xff")
    return text[:-1] + bytes([text[-1] + 1])
