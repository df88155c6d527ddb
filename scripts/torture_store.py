"""Kill a collection at random moments, again and again; the store must end as if nobody had.

    python scripts/torture_store.py --kills 200 --writers 2

A made-up teacher (fast, deterministic) fills a store; SIGKILL ends its writers after a random time; the same command
goes on. At the end the store is compared with one that was made in peace: same keys, same bits, nothing twice.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ekd.store.repair import verify
from ekd.store.store import Store
from ekd.types import Trace

ORIGIN = {"vocab": 32_000, "teacher": "made up", "temperatures": [2.0]}


def made_up(number: int) -> Trace:
    """The same trace for the same number, on every machine and in every order."""
    chance = np.random.default_rng(number)
    n = int(chance.integers(1, 40))
    counts = chance.integers(1, 9, n).astype(np.int32)
    first = np.cumsum(counts) - counts
    rank = np.arange(counts.sum()) - np.repeat(first, counts)
    weight = np.exp(-rank - chance.random(len(rank)) * 0.5)
    weight /= np.repeat(np.add.reduceat(weight, first), counts)
    tail = chance.uniform(0.001, 0.1, n)
    ids = (np.repeat(chance.integers(0, 16_000, n), counts) + rank).astype(np.int32)
    return Trace(
        key=f"{number:032x}",
        problem_id=f"made-up/{number}",
        sample=0,
        finish="stop",
        prompt_ids=chance.integers(0, 32_000, 30).astype(np.int32),
        response_ids=ids[first],
        counts=counts,
        ids=ids,
        logprobs=np.log(weight * np.repeat(1 - tail, counts)).astype(np.float32),
        log_tail=np.log(tail).astype(np.float32),
        entropy=chance.uniform(0, 3, n).astype(np.float32),
        exact=True,
        valid=np.ones(n, bool),
        log_norm=chance.normal(size=(n, 1)).astype(np.float32),
    )


def collect(folder: Path, numbers: list[int]) -> None:
    """What a collector does: ask what is missing, make it, save a few at a time."""
    store = Store.create(folder, ORIGIN)
    done = store.keys()
    missing = [number for number in numbers if f"{number:032x}" not in done]
    for at in range(0, len(missing), 8):
        store.append([made_up(number) for number in missing[at : at + 8]])


def torture(folder: Path, traces: int, kills: int, writers: int, life: float, seed: int) -> tuple[int, int]:
    """Returns how many kills hit a writer that was still at work, and how many traces were saved in spite of them."""
    chance = random.Random(seed)
    fork = multiprocessing.get_context("fork")  # a child starts in a millisecond, so every kill hits its work
    hits = 0
    for _ in range(kills):
        shares = [chance.sample(range(traces), traces) for _ in range(writers)]  # overlapping, each in its own order
        alive = [fork.Process(target=collect, args=(folder, share)) for share in shares]
        for process in alive:
            process.start()
        time.sleep(chance.uniform(0, life))
        for process in alive:
            process.kill()
            process.join()
            hits += process.exitcode == -signal.SIGKILL
    saved = len(Store.create(folder, ORIGIN).keys())
    collect(folder, list(range(traces)))
    return hits, saved


def compare(folder: Path, peaceful: Path) -> list[str]:
    """What is wrong with the tortured store; nothing, if all is well."""
    found = verify(folder)
    wrong = found.damage + found.notes
    one, other = Store(folder), Store(peaceful)
    if one.keys() != other.keys():
        wrong.append(f"{len(one.keys() ^ other.keys())} keys differ")
    if found.traces != len(one):
        wrong.append(f"{found.traces} traces for {len(one)} keys")
    for key in one.keys() & other.keys():
        for name, a, b in zip(Trace._fields, one[key], other[key], strict=True):
            if not (np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b):
                wrong.append(f"trace {key}: {name} differs")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--writers", type=int, default=1)
    parser.add_argument("--traces", type=int, help="how many to collect (default: 100 a kill, so that work is left)")
    parser.add_argument("--life", type=float, default=0.5, help="seconds that a writer lives at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    traces = options.traces or 100 * options.kills
    with tempfile.TemporaryDirectory() as scratch:
        began = time.monotonic()
        collect(Path(scratch, "peaceful"), list(range(traces)))  # first, so that no child has to load pandas
        hits, saved = torture(
            Path(scratch, "tortured"), traces, options.kills, options.writers, options.life, options.seed
        )
        wrong = compare(Path(scratch, "tortured"), Path(scratch, "peaceful"))
        facts = {"traces": traces, "rounds": options.kills, "kills of a writer at work": hits}
        print(json.dumps(facts | {"saved in spite of them": saved, "wrong": wrong[:20]}))
        print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    return 1 if wrong or not hits else 0


if __name__ == "__main__":
    sys.exit(main())
