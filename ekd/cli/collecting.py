"""Python's garbage collection while a command starts."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def nothing_collected() -> Iterator[None]:
    """For imports: they leave half a million objects that stay, and Python would look through all of them whenever a
    quarter as many have come, which took a quarter of the start (scripts/bench_start.py). Nor are they looked through
    later.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
