"""Whether a text goes round in circles: a model that was cut off while it did so would not have ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LONGEST, TIMES = 200, 4  # of the piece that is said again, and how often it is, at least


def period(text: Sequence[Any], *, longest: int = LONGEST, times: int = TIMES, least: int = 1) -> int:
    """The length of the piece in which the text ends `times` in a row, `least` elements in all; 0 for none.

    Elements are characters of a string, or ids.
    """
    end = text[-longest * times :]
    for size in range(1, longest + 1):
        whole = max(size * times, least)
        tail = end[-whole:]
        if len(tail) == whole and tail[size:] == tail[:-size]:
            return size
    return 0


def repeated(ids: Sequence[int]) -> bool:
    """Whether the ids end in one piece said again and again."""
    return period(ids, least=8) > 0


def cut_repeats(ids: list[int]) -> list[int]:
    """Without the circles: what was said before them, and the piece once."""
    size = period(ids, least=8)
    if not size:
        return ids
    begin = len(ids) - size
    while begin > 0 and ids[begin - 1] == ids[begin - 1 + size]:
        begin -= 1
    return ids[: begin + size]
