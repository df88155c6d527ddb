"""Locks between processes, with a word to whoever has to wait."""

from __future__ import annotations

from filelock import FileLock, Timeout


def acquire(lock: FileLock, why: str) -> FileLock:
    """Takes it, at once or after saying why not. A lock is released by `with`, or by `release`."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another process {why}; waiting for it ...", flush=True)
        lock.acquire()
    return lock
