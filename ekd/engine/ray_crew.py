"""Workers of Ray's, as the process sees them that asks: who has what, who has died, how it goes."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from importlib.metadata import version
from time import monotonic
from typing import Any, NamedTuple

import numpy as np

from ekd.engine.crew import Claim, batches_of
from ekd.engine.ray_worker import Begun, Bridged, Heard, RayWorker, Warm
from ekd.outside import visible
from ekd.types import Failure, Request, Teacher, Trace

LOOK = 1.0  # seconds between two looks while nobody says anything
SLOW = 30.0  # seconds without a worker after which it is said what is waited for
TRIES = 3  # workers that may die with a request in their hands
DEATHS = 5  # of one worker in a row, without an answer, that end the run


class Share(NamedTuple):
    size: int  # requests that are given together
    window: int  # that are claimed together; those of like length are given together
    in_flight: int  # that a worker has at most


class Hand:
    """A place among the workers: an actor, and when that has died another."""

    def __init__(self, number: int) -> None:
        self.name = f"worker {number}"
        self.actor: Any = None
        self.answers: Any = None  # a stream of references
        self.flight: dict[str, Request] = {}  # by key, what it has in hand
        self.pid: int | None = None  # None: Ray has no room for it yet, or is just starting it
        self.warm = False  # whether its teacher is loaded
        self.traces = self.tokens = self.failed = self.deaths = 0
        self.in_a_row = 0  # deaths since its last answer
        self.heard = 0.0  # when it spoke last
        self.busy = 0.0  # seconds with something in hand, before ...
        self.since: float | None = None  # ... it got what it has in hand now

    def give(self, requests: list[Request]) -> None:
        self.since = monotonic() if self.since is None else self.since
        self.flight.update((request.key, request) for request in requests)
        self.actor.give.remote(requests)

    def take(self, result: Trace | Failure) -> bool:
        """Whether it is an answer to what it has in hand."""
        if self.flight.pop(result.key, None) is None:
            return False
        self.in_a_row = 0
        if isinstance(result, Failure):
            self.failed += 1
        else:
            self.traces, self.tokens = self.traces + 1, self.tokens + len(result.response_ids)
        if not self.flight:
            self.rest()
        return True

    def rest(self) -> None:
        self.busy, self.since, self.flight = self.seconds, None, {}

    @property
    def seconds(self) -> float:
        return self.busy + (0.0 if self.since is None else monotonic() - self.since)

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / max(self.seconds, 1e-9)

    def line(self) -> str:
        died = "" if not self.deaths else f", died {self.deaths} time{'s' * (self.deaths > 1)}"
        return f"{self.name}: {self.traces} traces, {self.rate:,.0f} tokens/s, {self.failed} failed{died}"


class RayCrew:
    """needs: what Ray reserves for each worker."""

    def __init__(
        self, ray: Any, teacher: Teacher, share: Share, workers: int, needs: dict[str, float], *, again: bool
    ) -> None:
        self.ray, self.share, self.needs, self.again = ray, share, needs, again
        self.bridge = teacher.bridge if isinstance(teacher, Bridged) else None
        self.pickled = ray.put(ray.cloudpickle.dumps(teacher))
        self.batches: deque[list[Request]] = deque()  # claimed and in nobody's hands
        self.orphaned: Counter[str] = Counter()  # by key, workers that died with it in their hands
        self.hands = [Hand(number) for number in range(1, workers + 1)]
        self.began, self.said = monotonic(), False
        for hand in self.hands:
            self._start(hand)

    def trace(self, claim: Claim) -> Iterator[Trace | Failure]:
        """Nothing is claimed before a worker can take it."""
        left = True
        try:
            while left or self.batches or any(hand.flight for hand in self.hands):
                while (hand := self._free()) is not None and (left or self.batches):
                    if not self.batches:
                        self.batches += batches_of(claim(self.share.size, self.share.window), self.share.size)
                        left = bool(self.batches)
                    if self.batches:
                        hand.give(self.batches.popleft())
                if self.batches or any(hand.flight for hand in self.hands) or left:
                    yield from self._heard()
        finally:  # what comes of it later is not listened to
            self.batches.clear()
            for hand in self.hands:
                hand.rest()

    @property
    def note(self) -> str:
        rates = sorted(hand.rate for hand in self.hands if hand.traces)
        ready = sum(hand.warm for hand in self.hands)
        of = f"{len(self.hands)} workers" if ready == len(self.hands) else f"{ready} of {len(self.hands)} workers"
        each = f" at {rates[0]:,.0f} to {rates[-1]:,.0f}" if rates else ""
        failed = [f"{hand.name} {hand.failed}" for hand in self.hands if hand.failed]
        return of + each + (f" (failed: {', '.join(failed[:8])}{', ...' * (len(failed) > 8)})" if failed else "")

    def close(self) -> None:
        for hand in self.hands:
            self.ray.kill(hand.actor)
            if hand.traces or hand.failed or hand.deaths:
                print(hand.line(), flush=True)

    def _start(self, hand: Hand) -> None:
        """Two threads: it is given something while it works. No restart of Ray's: the new one would know of nothing."""
        made = self.ray.remote(RayWorker).options(**self.needs, max_concurrency=2, max_restarts=0, max_task_retries=0)
        hand.actor, hand.pid, hand.warm = made.remote(self.pickled, self.again), None, False
        hand.answers = hand.actor.work.options(num_returns="streaming").remote()

    def _free(self) -> Hand | None:
        """Of those with room the one that has least."""
        free = [h for h in self.hands if h.warm and len(h.flight) + self.share.size <= self.share.in_flight]
        return min(free, key=lambda hand: len(hand.flight), default=None)

    def _heard(self) -> Iterator[Trace | Failure]:
        """What a worker says, if one does soon; of several the one that has waited longest."""
        listened = {hand.answers: hand for hand in sorted(self.hands, key=lambda hand: hand.heard)}
        spoken, _ = self.ray.wait(list(listened), num_returns=1, timeout=LOOK)
        self._say_what_is_waited_for()
        for stream in spoken:
            hand, errors = listened[stream], self.ray.exceptions
            hand.heard = monotonic()
            try:
                said = self.ray.get(next(stream))
            except errors.RayTaskError as error:  # the teacher's own: it stops the run, as it would without Ray
                raise error.cause from error
            except (errors.RayError, StopIteration) as error:
                yield from self._replace(hand, visible(" ".join(str(error).split())))
                continue
            if isinstance(said, Begun):
                self._greet(hand, said)
            elif isinstance(said, Warm):
                hand.warm = True
            elif isinstance(said, Heard) and hand.take(said.result):
                if self.bridge is not None and said.bytes_by_kind is not None:
                    np.add(self.bridge.bytes_by_kind, said.bytes_by_kind, out=self.bridge.bytes_by_kind)
                yield said.result

    def _greet(self, hand: Hand, begun: Begun) -> None:
        if begun.ekd != version("ekd"):
            raise ValueError(
                f"{hand.name} has ekd {begun.ekd}, and this process {version('ekd')}: install the same on all machines "
                "of the cluster"
            )
        hand.pid = begun.pid

    def _replace(self, hand: Hand, reason: str) -> Iterator[Failure]:
        """What it had in hand is given out next, but for requests with which several workers have died."""
        hand.deaths, hand.in_a_row = hand.deaths + 1, hand.in_a_row + 1
        lost = list(hand.flight.values())
        hand.rest()
        self.ray.kill(hand.actor)  # where it was only out of reach
        if hand.in_a_row >= DEATHS:
            raise ValueError(
                f"{hand.name} died {DEATHS} times without an answer: {reason}; what is traced is kept, and the same "
                "command goes on"
            )
        print(f"{hand.name} died, and another takes its place; {len(lost)} requests are asked again", flush=True)
        self.orphaned.update(request.key for request in lost)
        failed = [request for request in lost if self.orphaned[request.key] >= TRIES]
        again = [request for request in lost if self.orphaned[request.key] < TRIES]
        self.batches.extendleft(reversed(batches_of(again, self.share.size)))
        self._start(hand)
        for request in failed:
            hand.failed += 1
            yield Failure(request.key, request.problem_id, f"{TRIES} workers died with it in their hands: {reason}")

    def _say_what_is_waited_for(self) -> None:
        if self.said or any(hand.pid is not None for hand in self.hands) or monotonic() - self.began < SLOW:
            return
        self.said = True
        each, free = self.needs, self.ray.available_resources()
        print(
            f"Ray has started no worker yet: each wants {each['num_cpus']:g} cores and {each['num_gpus']:g} GPUs, and "
            f"{free.get('CPU', 0):g} and {free.get('GPU', 0):g} are free; waiting ...",
            flush=True,
        )
