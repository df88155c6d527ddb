"""What runs in a process of Ray's: a warm teacher that answers whatever it is given, until it is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import version
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from ekd.engine.crew import Claim, answers, opened
from ekd.types import Failure, Request, Teacher, Trace

if TYPE_CHECKING:
    import numpy as np

    from ekd.translate.bridge import Bridge

PAUSE = 1.0  # seconds without a request after which a teacher is let finish what it has


@runtime_checkable
class Bridged(Protocol):
    """A teacher that may say its rows over another's ids, and counts how well it could."""

    bridge: Bridge | None


class Begun(NamedTuple):
    """A process is there; its teacher is not."""

    pid: int
    ekd: str  # version


class Warm(NamedTuple):
    """The teacher is loaded."""


class Heard(NamedTuple):
    result: Trace | Failure
    bytes_by_kind: np.ndarray | None  # how many more were translated, and how well (`Bridge.bytes_by_kind`)


class RayWorker:
    """An actor with two threads: one is given requests, the other is with the teacher."""

    def __init__(self, teacher: bytes, again: bool) -> None:
        """teacher: pickled, as Ray would make its arrays read-only."""
        self.teacher, self.again = teacher, again
        self.coming: SimpleQueue[list[Request]] = SimpleQueue()
        self.asked: dict[str, Request] = {}  # what is with the teacher

    def give(self, requests: list[Request]) -> None:
        """A batch, for a teacher that has such."""
        self.coming.put(requests)

    def work(self) -> Iterator[Begun | Warm | Heard]:
        from ray import cloudpickle

        yield Begun(os.getpid(), version("ekd"))
        teacher: Teacher = cloudpickle.loads(self.teacher)
        with opened(teacher) as warm:
            yield Warm()
            bridge = warm.bridge if isinstance(warm, Bridged) else None
            while True:
                for result in answers(warm, self._claim(), again=self.again):
                    self.asked.pop(result.key, None)
                    known = None if bridge is None else bridge.bytes_by_kind.copy()
                    if bridge is not None:
                        bridge.bytes_by_kind.fill(0)
                    yield Heard(result, known)
                for request in self.asked.values():
                    silent = "the teacher did not say anything of it"
                    yield Heard(Failure(request.key, request.problem_id, silent), None)
                self.asked.clear()

    def _claim(self) -> Claim:
        """The first is waited for. Not the others for long: of a server's answers none would come out meanwhile."""
        wait: float | None = None

        def claim(least: int, most: int) -> list[Request]:
            nonlocal wait
            try:
                found = self.coming.get(timeout=wait)
            except Empty:
                return []
            wait = PAUSE
            self.asked.update((request.key, request) for request in found)
            return found

        return claim
