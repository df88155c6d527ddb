"""Who asks for what: any number of processes, on any machines that see a store, work on one collection.

Each claims some of the missing traces for itself, by their keys, under the store's lock, which it has for milliseconds.
What a dead process had claimed is free again; what it had finished is taken in first, so that only what it was at work
on is made twice.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from ekd.store.location import Location, check_link, put_soon
from ekd.store.presence import FOLDER, Presence, present
from ekd.store.store import Store, lock
from ekd.store.unsaved import recover
from ekd.types import Failure, Request

LEASE = "lease.json"  # in a process's folder: the keys that it has claimed; nothing hangs on it once that is dead
FAILED = "failed.json"  # beside these folders: what failed for one of those that are at work now


class Leases:
    """Of one process. groups: requests that are claimed together, in their order. patience: seconds without a heartbeat
    after which another is taken for dead. whole: claim all that is wanted, though others might come and help.
    """

    def __init__(
        self, store: Store, own: Presence, groups: Iterable[Sequence[Request]], patience: float, *, whole: bool
    ) -> None:
        self.store, self.own, self.patience, self.whole = store, own, patience, whole
        self.left = deque(groups)  # not known to be stored, nor claimed by this process
        self.waiting = sum(map(len, self.left))  # requests of these
        self.claimed = 0  # requests so far
        self.held: set[str] = set()  # keys of those that are neither stored nor failed
        self.failed: dict[str, Failure] = {}  # by key: this process's, and those of others
        self.others = -1  # at work at the last look; -1: none yet

    def claim(self, least: int, most: int) -> list[Request]:
        """About `most` requests that nobody else has, fewer where little is left for all; [] where there are none now.

        least: what makes a good batch.
        """
        recover(self.store, self.patience)
        with lock(self.store.path):
            if self.own.taken:
                self.own.enter()
            self.store.refresh()
            others = [folder for folder in present(self.store.path) if folder != self.own.folder]
            self._share_failures(alone=self.others < 0 and not others)
            self.others = len(others)
            claimed = self._share(least, most, set().union(*map(keys_of, others)))
            self.held = {key for key in self.held if not self._done(key)} | {request.key for request in claimed}
            self.claimed += len(claimed)
            self._keep(self.own.folder / LEASE, sorted(self.held))
        return claimed

    def finish(self) -> None:
        """Tells the others what failed; the last one to go takes the list away."""
        with lock(self.store.path):
            others = [folder for folder in present(self.store.path) if folder != self.own.folder]
            self._share_failures(alone=not others)

    def _share(self, least: int, most: int, others: set[str]) -> list[Request]:
        """Half of what would be an even share of what is free: so claims get small and all end together."""
        each = 1 if self.whole else 2 * self.others + 2
        free = self._first_free(most * each, others)
        share = min(most, max(least, sum(map(len, free)) // each))
        claimed: list[Request] = []
        while free and len(claimed) < share:
            claimed += free.popleft()
        self.left.extendleft(reversed(free))
        self.waiting += sum(map(len, free))
        return claimed

    def _first_free(self, most: int, others: set[str]) -> deque[list[Request]]:
        """Taken from what is left, about `most` requests: no share depends on more. Groups that others have come last
        from now on: most of these are stored when their turn comes again.
        """
        free: deque[list[Request]] = deque()
        count = 0
        for _ in range(len(self.left)):
            if count >= most:
                break
            group = self.left.popleft()
            self.waiting -= len(group)
            missing = [r for r in group if not self._done(r.key) and r.key not in self.held]
            if any(r.key in others for r in missing):
                self.left.append(group)
                self.waiting += len(group)
            elif missing:
                free.append(missing)
                count += len(missing)
        return free

    def _done(self, key: str) -> bool:
        return key in self.store or key in self.failed

    def _share_failures(self, *, alone: bool) -> None:
        """alone: those of an earlier collection are to be tried again."""
        file = self.own.store / FOLDER / FAILED
        if alone:
            file.unlink(missing_ok=True)
            return
        known = [Failure(*row) for row in read_list(file)]
        self.failed |= {failure.key: failure for failure in known}
        if len(self.failed) > len(known):
            self._keep(file, list(self.failed.values()))

    def _keep(self, file: Location, content: object) -> None:
        try:
            put_soon(file, json.dumps(content).encode())
        except OSError as error:
            raise ValueError(
                f"{self.store.path}: what this process claims could not be saved ({error}); the {len(self.store)} "
                "saved before are whole: make room or get write permission, and give the same command again"
            ) from error


def keys_of(folder: Location) -> set[str]:
    """What a process has claimed."""
    return set(read_list(folder / LEASE))


def read_list(file: Location) -> list[Any]:
    """Nothing, where there is none. Raises ValueError for what nobody wrote here."""
    check_link(file)
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}): remove it while no process is at work on the store") from error
    return list(content)
