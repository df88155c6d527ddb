"""What breaks on the way to a teacher is tried again, waited for or set aside; nothing is lost or invented."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from wire_servers import Replay, build, exchanges, generations, serve

from ekd.store.store import Store
from ekd.teacher.wire.faults import Fault, Refused, Unavailable
from ekd.teacher.wire.transport import Wire
from ekd.teacher.wire.vocabulary import vocabulary_of
from ekd.types import Failure, Request, Trace

# ---- the transport alone, with clients that are plain strings


def wire(*endpoints: str, **changes) -> Wire:
    settings = {"concurrency": 2, "attempts": 3, "backoff": 0.01, "patience": 5.0, **changes}
    return Wire(endpoints=endpoints or ("http://a",), **settings)


def requests(n: int) -> Iterator[Request]:
    return (Request(str(k), f"p{k}", 0, k, [1]) for k in range(n))


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[str]:
    yield url


def run(made: Wire, ask: Callable, n: int = 6) -> dict[str, object]:
    return {request.key: answer for request, answer in made.run(requests(n), connect, ask)}


def test_a_fault_is_tried_again_and_then_set_aside_while_the_run_goes_on() -> None:
    tried: Counter[str] = Counter()

    async def ask(client: str, request: Request) -> tuple[str, int]:
        tried[request.key] += 1
        if request.key == "0" or (request.key == "1" and tried["1"] < 3):
            raise Fault("it broke")
        if request.key == "2":
            raise Refused("it is wrong")
        return "fine", 1

    answers = run(wire(), ask)
    assert answers.pop("0") == Failure("0", "p0", "it broke (3 attempts)")
    assert answers.pop("2") == Failure("2", "p2", "it is wrong")
    assert set(answers.values()) == {"fine"}
    assert (tried["0"], tried["1"], tried["2"], tried["3"]) == (3, 3, 1, 1)


def test_an_unavailable_endpoint_is_left_out_tried_again_and_costs_no_attempt() -> None:
    """a refuses seven times, more than a request has attempts; b does the work meanwhile; then a is used again."""
    refusals, used = iter(range(7)), Counter()

    async def ask(client: str, request: Request) -> tuple[str, int]:
        if client == "http://a" and next(refusals, None) is not None:
            used["refused"] += 1
            raise Unavailable("nothing answers")
        used[client] += 1
        await asyncio.sleep(0.02)
        return client, 1

    answers = run(wire("http://a", "http://b"), ask, 400)
    assert len(answers) == 400
    assert not any(isinstance(answer, Failure) for answer in answers.values())
    assert used["refused"] == 7
    assert used["http://a"] > 20


def test_when_nobody_answers_for_too_long_the_run_stops_with_a_sentence() -> None:
    async def ask(client: str, request: Request) -> tuple[str, int]:
        if int(request.key) < 3:
            return "fine", 1
        raise Unavailable("nothing answers")

    seen = []
    with pytest.raises(ValueError, match=r"no teacher has answered for 0 s .*the same command goes on"):
        for request, _ in wire(patience=0.2).run(requests(9), connect, ask):
            seen.append(request.key)
    assert set(seen) == {"0", "1", "2"}


def test_the_server_says_when_to_come_again() -> None:
    refused = []

    async def ask(client: str, request: Request) -> tuple[str, int]:
        if not refused:
            refused.append(time.monotonic())
            raise Unavailable("busy", after=0.5)
        return time.monotonic() - refused[0], 1

    assert min(run(wire(concurrency=1), ask, 3).values()) >= 0.5


def test_work_goes_to_whoever_is_free_and_concurrency_is_bounded() -> None:
    now, most, done = Counter(), Counter(), Counter()

    async def ask(client: str, request: Request) -> tuple[str, int]:
        now[client] += 1
        most[client] = max(most[client], now[client])
        await asyncio.sleep(0.03 if client == "http://slow" else 0.003)
        now[client] -= 1
        done[client] += 1
        return client, 1

    run(wire("http://slow", "http://fast", concurrency=3), ask, 120)
    assert most == {"http://slow": 3, "http://fast": 3}
    assert done["http://fast"] > 3 * done["http://slow"]


def test_requests_are_taken_as_they_are_needed_and_leaving_ends_everything() -> None:
    taken, cancelled = count(), []

    def endless() -> Iterator[Request]:
        return (Request(str(k), "p", 0, k, [1]) for k in taken)

    async def ask(client: str, request: Request) -> tuple[str, int]:
        try:
            await asyncio.sleep(0 if int(request.key) < 5 else 60)
        except asyncio.CancelledError:
            cancelled.append(request.key)
            raise
        return "fine", 1

    answers = wire().run(endless(), connect, ask)
    for _ in range(5):
        next(answers)
    answers.close()
    assert next(taken) <= 5 + 2 * 2
    assert len(cancelled) == 2
    assert not [t for t in threading.enumerate() if t.name == "ekd-wire" and t.is_alive()]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A program that a shell starts in the background ignores Ctrl-C, and so would these tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_waiting_ends_cleanly(interruptible: None) -> None:
    struck: list[str] = []

    async def ask(client: str, request: Request) -> tuple[str, int]:
        if not struck:  # once, and not before somebody waits
            struck.append(client)
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        await asyncio.sleep(60)
        return "never", 1

    with pytest.raises(KeyboardInterrupt):
        run(wire(), ask)
    assert not [t for t in threading.enumerate() if t.name == "ekd-wire" and t.is_alive()]


def test_our_own_mistakes_are_not_hidden() -> None:
    async def ask(client: str, request: Request) -> tuple[str, int]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(wire(), ask)


# ---- the whole way: Ollama as recorded, behind a proxy that breaks 30% of the requests and is killed twice

COPIES = 15  # of each of the four shortest recorded answers, under seeds of their own


def work() -> tuple[list[dict], list[Request]]:
    vocabulary = vocabulary_of("smollm2")
    short = sorted(generations(), key=lambda w: w["response"]["eval_count"])[:4]
    whole, asked = [], []
    for n, w in enumerate(w for w in short for _ in range(COPIES)):
        options = {**w["request"]["options"], "seed": n}
        whole.append({**w, "request": {**w["request"], "options": options}})
        ids = vocabulary.tokenizer(w["request"]["prompt"], add_special_tokens=False)["input_ids"]
        asked.append(Request(f"key-{n}", f"{w['id']}-{n}", 0, n, ids))
    return whole, asked


class Killable:
    """The proxy in a process of its own, on one port, through two deaths."""

    def __init__(self, target: str) -> None:
        self.target, self.port, self.deaths = target, "0", 0
        self.start()

    def start(self) -> None:
        script = Path(__file__).parents[1].joinpath("wire_proxy.py")
        command = [sys.executable, str(script), self.port, self.target, str(self.deaths)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()
        self.port = self.url.rpartition(":")[2]

    def die(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def die_and_come_back(self) -> None:
        self.die()
        self.deaths += 1
        threading.Timer(0.5, self.start).start()


def collect(folder: Path, url: str, asked: list[Request], after: Callable[[int], None] = lambda n: None) -> Store:
    settings = {"model": "smollm2", "tokenizer": "smollm2", "endpoints": [url], "max_new_tokens": 256}
    teacher = build("ollama", {**settings, "backoff": 0.02, "timeout": 1, "patience": 20, "attempts": 12})
    store = Store.create(folder, {"vocab": 49152, "temperatures": []})
    fresh: list[Trace] = []
    for n, trace in enumerate(teacher.trace(asked)):
        assert isinstance(trace, Trace), trace
        fresh.append(trace)
        after(n)
    store.append(fresh)
    return store


@pytest.mark.real
def test_the_store_is_the_same_with_and_without_faults(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "ekd.teacher.wire.transport")
    whole, asked = work()
    with serve(Replay(whole, exchanges().values())) as url:
        calm = collect(tmp_path / "calm", url, asked)
        proxy = Killable(url)
        try:
            kill = {10: proxy.die_and_come_back, 30: proxy.die_and_come_back}
            rough = collect(tmp_path / "rough", proxy.url, asked, lambda n: kill.pop(n, lambda: None)())
            assert proxy.deaths == 2
            kinds = ("is busy", "was silent", "broke", "not Ollama's JSON", "unexpected EOF", "nothing answers")
            assert sum(kind in caplog.text for kind in kinds) >= 5
        finally:
            proxy.die()
    assert set(rough.keys()) == set(calm.keys()) == {r.key for r in asked}
    for key in calm.keys():  # noqa: SIM118
        for name, one, other in zip(Trace._fields, calm[key], rough[key], strict=True):
            np.testing.assert_array_equal(one, other, err_msg=f"{key} {name}")
