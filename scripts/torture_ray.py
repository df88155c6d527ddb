"""engine=ray with a made-up teacher: its workers killed, or the time that it adds.

    python scripts/torture_ray.py --requests 200 --kills 3
    TMPDIR=/dev/shm python scripts/torture_ray.py --speed --requests 140 --seconds 0.5

The teacher is the one of scripts/torture_leases.py: it answers one request at a time, after `--seconds`, and writes
down what it begins. Without --speed a worker's process is ended (SIGKILL) `--kills` times, each once some further
traces are stored. At the end every key must be in the store once, the store sound, and no more begun twice than
processes were killed.

--speed: nobody is killed; one worker and two beside a bare loop that asks the teacher and saves each trace but claims
nothing. The clock runs from when the workers are warm. Cores are not what they wait for, so more may work than there
are.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread

import torture_leases
import torture_store
from torture_leases import bare_loop, compare, ready, timed

from ekd.data.collect import Collector
from ekd.engine.ray import Ray, imported
from ekd.engine.ray_crew import RayCrew


def by_ray(made: Collector, workers: int) -> Collector:
    """The same collection by workers that share a core, and are sent the teacher's class itself."""
    ray = imported(None)
    for module in (torture_leases, torture_store):
        ray.cloudpickle.register_pickle_by_value(module)
    return replace(made, engine=Ray(address=None, workers=workers, cpus=1 / workers, gpus=0, in_flight=None))


def crew_of(warm: Collector) -> RayCrew:
    """Once all of its workers are warm."""
    assert isinstance(warm.crew, RayCrew)
    while not all(hand.warm for hand in warm.crew.hands):
        assert not list(warm.crew._heard())
    return warm.crew


def torture(folder: Path, options: argparse.Namespace) -> int:
    """Returns how many kills hit a process at work."""
    made, hit = by_ray(ready(folder, options.requests, options.seconds), options.workers), 0

    def kill(crew: RayCrew) -> None:
        nonlocal hit
        for number in range(options.kills):
            while sum(hand.traces for hand in crew.hands) < options.requests * (number + 1) / (options.kills + 2):
                time.sleep(0.01)
            at_work = [hand for hand in crew.hands if hand.warm and hand.flight and hand.pid]
            victim = at_work[number % len(at_work)]
            os.kill(victim.pid or 0, signal.SIGKILL)
            hit += 1

    with made.warm() as warm:
        killer = Thread(target=kill, args=(crew_of(warm),))
        killer.start()
        warm.collect("train", options.requests)
        killer.join()
    return hit


def speed(folder: Path, requests: int, seconds: float) -> dict[str, float]:
    bare = timed(bare_loop(folder, requests, seconds))
    took = {}
    for workers in (1, 2):
        (folder / str(workers)).mkdir()
        with by_ray(ready(folder / str(workers), requests, seconds), workers).warm() as warm:
            crew_of(warm)
            took[workers] = timed(lambda: warm.collect("train", requests))
    said = {"bare loop, s": bare, "one worker, s": took[1], "two workers, s": took[2]}
    said |= {"overhead": took[1] / bare - 1, "one over two": took[1] / took[2]}
    return {name: round(value, 3) for name, value in said.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=0.05, help="that the teacher takes for one")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--speed", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.speed:
            print(json.dumps(speed(folder, options.requests, options.seconds)))
            return 0
        kills = torture(folder, options)
        facts, wrong = compare(folder, options.requests, kills, None)
        print(json.dumps({"workers": options.workers, **facts, "wrong": wrong[:20]}))
    return 1 if wrong or kills < options.kills else 0


if __name__ == "__main__":
    sys.exit(main())
