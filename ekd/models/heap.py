"""Memory that was freed, given back."""

from __future__ import annotations

import ctypes
import sys


def trim() -> None:
    """What was freed goes back to the system. glibc keeps it otherwise, in pieces in which the large tensors that come
    next find no place: of tracing alone 0.7 GB. Elsewhere there is nothing to do.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
