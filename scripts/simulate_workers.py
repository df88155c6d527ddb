"""Many workers on one collection, some of whose machines die: how long it takes and what is made twice. A simulation.

    python scripts/simulate_workers.py                        # the tables of docs/scale.md, from fixed seeds
    python scripts/simulate_workers.py --workers 8 --lifetime 4 --requests 100000

Simulated: claims by the rule of `ekd.store.leases` under one lock, batches of a teacher, machines that die at any
moment and come back, their claims taken over after `data.collector.patience`. Constants are measured (docs/scale.md) or
assumed, each with its source below. Each dying process is on a machine of its own, which is the worse case: on the same
machine a death is seen at once.
"""

from __future__ import annotations

import argparse
import heapq
from collections import Counter, deque
from dataclasses import dataclass, field, replace

import numpy as np

from ekd.engine.crew import WINDOW
from ekd.store.presence import BEAT
from ekd.store.unsaved import PATIENCE

HOUR = 3600.0


@dataclass(frozen=True)
class Plan:
    """lifetime: hours of a machine until it dies, on average; None: never. Seconds: of the lock at a claim (measured:
    4.5 to 22.5 ms for a look and one more shard among 15,000), and until a machine that died is at work again.
    """

    requests: int = 100_000
    workers: int = 64
    tokens: float = 4_000.0  # of an answer, on average (assumed); log-normal, its logarithm's deviation 0.6 (assumed)
    rate: float = 2_000.0  # tokens a second of one worker (assumed)
    batch: int = 8  # texts that a teacher writes together
    lifetime: float | None = 24.0
    lock: float = 0.0225
    restart: float = 300.0
    patience: float = PATIENCE
    seed: int = 0


@dataclass
class Worker:
    batches: deque[list[int]] = field(default_factory=deque)  # claimed, not begun
    making: list[int] = field(default_factory=list)
    died: float | None = None
    epoch: int = 0  # events of an earlier life are void


@dataclass(frozen=True)
class Outcome:
    hours: float
    ideal: float  # hours of work that nobody interrupts, evenly shared
    deaths: int
    begun_twice: int
    waited: float  # share of the workers' time that made no trace: dead, starting, at the lock, or out of work


class Simulation:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rng = np.random.default_rng(plan.seed)
        spread = 0.6
        self.seconds = self.rng.lognormal(np.log(plan.tokens) - spread**2 / 2, spread, plan.requests) / plan.rate
        self.free = deque(range(plan.requests))
        self.begun: Counter[int] = Counter()
        self.done: set[int] = set()
        self.workers = [Worker() for _ in range(plan.workers)]
        self.events: list[tuple[float, int, str, int, int]] = []  # time, order, what, worker, its life
        self.unlocked = 0.0  # when the store's lock is free again
        self.deaths = 0
        self.busy = 0.0

    def run(self) -> Outcome:
        for n in range(len(self.workers)):
            self._start(0.0, n)
        now = 0.0
        while len(self.done) < self.plan.requests:
            now, _, what, n, life = heapq.heappop(self.events)
            if life == self.workers[n].epoch:
                getattr(self, f"_{what}")(now, n)
        twice = sum(count - 1 for count in self.begun.values())
        ideal = float(self.seconds.sum()) / self.plan.workers
        waited = 1 - self.busy / (now * self.plan.workers)
        return Outcome(now / HOUR, ideal / HOUR, self.deaths, twice, waited)

    def _at(self, when: float, what: str, n: int) -> None:
        heapq.heappush(self.events, (when, len(self.begun) + len(self.events), what, n, self.workers[n].epoch))

    def _start(self, now: float, n: int) -> None:
        if self.plan.lifetime is not None:
            self._at(now + float(self.rng.exponential(self.plan.lifetime * HOUR)), "death", n)
        self._claim(now, n)

    def _claim(self, now: float, n: int) -> None:
        """As `Leases.claim`: about 1 / (2 others + 2) of what is left, a batch at least, a window at most."""
        self.unlocked = max(now, self.unlocked) + self.plan.lock
        self._take_over(now)
        others = sum(worker.died is None for worker in self.workers) - 1
        most, least = WINDOW * self.plan.batch, self.plan.batch
        share = min(most, max(least, len(self.free) // (2 * others + 2)))
        claimed = [self.free.popleft() for _ in range(min(share, len(self.free)))]
        claimed.sort(key=lambda one: -self.seconds[one])  # of like length together
        size = self.plan.batch
        self.workers[n].batches.extend(claimed[at : at + size] for at in range(0, len(claimed), size))
        self._at(self.unlocked + (0 if claimed else 1.0), "next" if claimed else "claim", n)

    def _take_over(self, now: float) -> None:
        for worker in self.workers:
            if worker.died is not None and now - worker.died > self.plan.patience:
                self.free.extend(one for batch in (worker.making, *worker.batches) for one in batch)
                worker.making, worker.died = [], None
                worker.batches.clear()

    def _next(self, now: float, n: int) -> None:
        worker = self.workers[n]
        if not worker.batches:
            self._claim(now, n)
            return
        worker.making = worker.batches.popleft()
        self.begun.update(worker.making)
        self._at(now + float(self.seconds[worker.making].sum()), "finish", n)

    def _finish(self, now: float, n: int) -> None:
        worker = self.workers[n]
        self.done.update(worker.making)
        self.busy += float(self.seconds[worker.making].sum())
        worker.making = []
        self._next(now, n)

    def _death(self, now: float, n: int) -> None:
        """Its claims lie there until others miss its heartbeat; the process that comes back is another."""
        worker = self.workers[n]
        self.deaths += 1
        gone = Worker(worker.batches, worker.making, died=now - BEAT * float(self.rng.random()))
        self.workers.append(gone)
        self.workers[n] = Worker(epoch=worker.epoch + 1)
        self._at(now + self.plan.restart, "start", n)


ROWS = (1, 8, 64), (None, 24.0, 2.0)


def row(plan: Plan) -> str:
    found = Simulation(plan).run()
    lifetime = "never" if plan.lifetime is None else f"{plan.lifetime:g} h"
    share = 100 * found.begun_twice / plan.requests
    return (
        f"| {plan.workers} | {lifetime} | {plan.batch} | {found.hours:.2f} | {found.hours / found.ideal:.3f} "
        f"| {found.deaths} | {found.begun_twice:,} ({share:.2f}%) | {100 * found.waited:.1f}% |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, kind in (("requests", int), ("workers", int), ("lifetime", float), ("batch", int), ("rate", float)):
        parser.add_argument(f"--{name}", type=kind)
    asked = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    print("| workers | a machine dies after | batch | hours | of the ideal | deaths | made twice | idle |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    plan = replace(Plan(), **asked)
    if {"workers", "lifetime"} & asked.keys():
        print(row(plan))
        return
    for workers in ROWS[0]:
        for lifetime in ROWS[1]:
            print(row(replace(plan, workers=workers, lifetime=lifetime)))


if __name__ == "__main__":
    main()
