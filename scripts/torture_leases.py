"""Several processes on one collection, killed again and again; all of it must be made, and hardly any of it twice.

    python scripts/torture_leases.py --workers 4 --requests 2000
    python scripts/torture_leases.py --speed
    python scripts/torture_leases.py --at moto      # the store at s3://, of a server that is started on loopback

A made-up teacher answers one request at a time, after `--seconds`, and writes down what it begins. SIGKILL ends a
process every few seconds, and the same collection is started again in its place. At the end every key must be in the
store once, the store sound, and no more begun twice than processes were killed: each had one request at its teacher.

--speed: the same without kills, by one process and by two, beside a bare loop that asks the teacher and saves each
trace but claims nothing. TMPDIR=/dev/shm leaves the disk out of it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
from torture_store import made_up

from ekd.data.collect import Collector
from ekd.dataset.arithmetic import Arithmetic
from ekd.models.prompt import Prompt
from ekd.store.location import location
from ekd.store.presence import Presence, present
from ekd.store.repair import verify
from ekd.store.shard import part
from ekd.store.store import Store
from ekd.store.unsaved import Unsaved
from ekd.types import Request, Trace

SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()  # until the script is over
"""
FORK = multiprocessing.get_context("fork")  # a process starts in a millisecond, so that a kill hits its work


class Sleeper:
    """A teacher whose answers cost time alone. begun: a file with a line for each request."""

    mode, exact, tokenizer = "generate", True, None

    def __init__(self, begun: Path, seconds: float) -> None:
        self.begun, self.seconds = begun, seconds

    def origin(self) -> dict[str, Any]:
        return {"type": "sleeper", "vocab": 32_000, "temperatures": [2.0]}

    def trace(self, requests: Iterable[Request]) -> Iterator[Trace]:
        for request in requests:
            with self.begun.open("a") as file:
                file.write(request.key + "\n")
            time.sleep(self.seconds)
            trace = made_up(int(request.key, 16))
            yield trace._replace(key=request.key, problem_id=request.problem_id, sample=request.sample)


def store_of(folder: Path, at: str | None) -> str:
    """A folder beside what is written down, or below an address."""
    return str(folder / "store") if at is None else f"{at}/{folder.name}"


@contextmanager
def place(at: str | None) -> Iterator[str | None]:
    """An address where nothing is yet; moto: of a server that is started here."""
    if at != "moto":
        yield at and f"{at.rstrip('/')}/{token_hex(6)}"
        return
    import fsspec

    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", SERVER], **pipes, text=True) as server:
        assert server.stdin is not None and server.stdout is not None
        host, port = server.stdout.readline().split()
        secrets = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "of-nobody")
        os.environ |= {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1", **secrets}
        fsspec.filesystem("s3", use_listings_cache=False).mkdir("bucket")
        try:
            yield "s3://bucket"
        finally:
            server.stdin.close()


def collector(folder: Path, requests: int, seconds: float, at: str | None = None) -> Collector:
    return Collector(
        teacher=Sleeper(folder / "begun", seconds),
        dataset=Arithmetic(seed=0, train=requests, val=1, test=1, kinds=None, levels=[1, 2, 3]),
        prompt=Prompt(system="", instruction="", shots=0, thinking=None),
        tokenizer="tiny",
        store=store_of(folder, at),
        samples=1,
        seed=0,
        trust_remote_code=False,
        text_tokens=1024,
        share=True,
    )


def ready(folder: Path, requests: int, seconds: float, at: str | None = None) -> Collector:
    """Its tokenizer loaded, so that a process that is forked from here is at work at once."""
    made = collector(folder, requests, seconds, at)
    made.open()
    return made


def torture(folder: Path, options: argparse.Namespace, at: str | None) -> int:
    """Returns how many kills hit a process at work."""
    chance, kills = random.Random(options.seed), 0
    made = ready(folder, options.requests, options.seconds, at)

    def start() -> Any:
        process = FORK.Process(target=made.collect, args=("train", options.requests))
        process.start()
        return process

    alive = [start() for _ in range(options.workers)]
    kill_at = time.monotonic() + chance.uniform(0.2, 2) * options.every
    while alive:
        time.sleep(0.05)
        if time.monotonic() > kill_at:
            hit = chance.choice(alive)
            hit.kill()
            hit.join()
            if hit.exitcode == -signal.SIGKILL:
                kills += 1
                alive[alive.index(hit)] = start()
            kill_at = time.monotonic() + chance.uniform(0.2, 2) * options.every
        for process in [process for process in alive if not process.is_alive()]:
            alive.remove(process)
            if process.exitcode:
                raise SystemExit(f"a process ended with {process.exitcode}")
    return kills


def compare(folder: Path, requests: int, kills: int, at: str | None) -> tuple[dict[str, int], list[str]]:
    """What was counted, and what is wrong."""
    path = location(store_of(folder, at))
    store = Store(path)
    wanted = {request.key for request in collector(folder, requests, 0).requests("train", requests)}
    stored = Counter(key for file in store.shards for key in store.shard(file).column("key"))
    begun = (folder / "begun").read_text().splitlines()
    facts = {"keys": len(store), "kills": kills, "begun": len(begun), "begun twice": len(begun) - len(wanted)}
    found = verify(path)
    wrong = found.damage + found.notes
    if store.keys() != wanted:
        wrong.append(f"{len(store.keys() ^ wanted)} keys differ from those asked for")
    if any(n > 1 for n in stored.values()):
        wrong.append(f"{sum(n > 1 for n in stored.values())} keys are stored twice")
    if facts["begun twice"] > kills:
        wrong.append(f"{facts['begun twice']} were begun twice, and {kills} processes were killed")
    if left := present(path):
        wrong.append(f"{len(left)} processes are still in the store")
    for key in wanted & store.keys():
        if not np.array_equal(store[key].response_ids, made_up(int(key, 16)).response_ids):
            wrong.append(f"trace {key} is not what the teacher said")
    return facts, wrong


def timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def by_processes(folder: Path, count: int, requests: int, seconds: float) -> float:
    folder.mkdir()
    made = ready(folder, requests, seconds)
    some = [FORK.Process(target=made.collect, args=("train", requests)) for _ in range(count)]

    def run() -> None:
        for process in some:
            process.start()
        for process in some:
            process.join()

    return timed(run)


def bare_loop(folder: Path, requests: int, seconds: float) -> Callable[[], None]:
    """Asks the teacher and saves each trace, but claims nothing."""
    made = ready(folder / "bare", requests, seconds)
    asked, store = made.requests("train", requests), made.open()

    def loop() -> None:
        with Presence(store.path) as own:
            waiting = Unsaved(store, own)
            for trace in Sleeper(folder / "begun", seconds).trace(asked):
                waiting.add(part(trace, store.layout))
            waiting.flush()

    return loop


def speed(folder: Path, requests: int, seconds: float) -> dict[str, float]:
    bare = timed(bare_loop(folder, requests, seconds))
    one, two = (by_processes(folder / str(count), count, requests, seconds) for count in (1, 2))
    said = {"bare loop, s": bare, "one process, s": one, "two processes, s": two}
    return {k: round(v, 3) for k, v in (said | {"overhead": one / bare - 1, "one over two": one / two}).items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=0.02, help="that the teacher takes for one")
    parser.add_argument("--every", type=float, default=3.0, help="seconds from one kill to the next, on average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--at", help="an fsspec address for the store, or moto for a server that is started here")
    options = parser.parse_args()
    if options.speed and options.at:
        parser.error("--speed measures a folder: leave out --at")
    with tempfile.TemporaryDirectory() as scratch, place(options.at) as at:
        folder, began = Path(scratch), time.monotonic()
        if options.speed:
            print(json.dumps(speed(folder, options.requests, options.seconds)))
            return 0
        kills = torture(folder, options, at)
        facts, wrong = compare(folder, options.requests, kills, at)
        print(json.dumps({"processes": options.workers, **facts, "wrong": wrong[:20]}))
        print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    return 1 if wrong or not kills else 0


if __name__ == "__main__":
    sys.exit(main())
