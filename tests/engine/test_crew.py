"""Who is given what, and what becomes of it when a worker dies: Ray's workers by a stand-in, a step at a time."""

from __future__ import annotations

import os
import sys
from collections import Counter, deque
from types import SimpleNamespace
from typing import Any

import pytest
from fake_traces import fake_trace

from ekd.engine.crew import all_at_once
from ekd.engine.ray import LOOPBACK, Ray, imported, usual
from ekd.engine.ray_crew import DEATHS, TRIES, RayCrew, Share
from ekd.engine.ray_worker import Begun, Heard, RayWorker, Warm
from ekd.types import Failure, Request, Trace

ASKED = [Request(f"{n:032x}", f"problem/{n}", 0, 0, [1] * (n % 5 + 1)) for n in range(23)]
SETTINGS = {"address": None, "workers": 2, "cpus": 1, "gpus": None, "in_flight": None}


class RayError(Exception):
    pass


class TaskError(RayError):
    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Method:
    def __init__(self, call: Any) -> None:
        self.call = call

    def options(self, **options: Any) -> Method:
        return self

    def remote(self, *words: Any) -> Any:
        return self.call(*words)


class Actor:
    """Answers one request at each look. deadly: keys that kill it; silent on nothing, fails where `bad` says."""

    def __init__(self, world: World) -> None:
        self.world, self.held, self.said, self.dead = world, deque[Request](), deque[Any](), False
        self.give, self.work = Method(self.given), Method(lambda: self)
        self.said += [Begun(1, world.version), Warm()] if world.warms else [Begun(1, world.version)]

    def given(self, requests: list[Request]) -> None:
        assert len(requests) <= self.world.size
        self.held += requests
        self.world.begun.update(request.key for request in requests)
        self.world.most = max(self.world.most, len(self.held))

    def __next__(self) -> Any:
        if self.dead or (not self.said and self.held and self.held[0].key in self.world.deadly):
            self.dead = True
            raise RayError("its process\nended")
        if self.said:
            return self.said.popleft()
        request = self.held.popleft()
        if request.key in self.world.bad:
            return Heard(Failure(request.key, request.problem_id, "no"), None)
        if request.key in self.world.breaks:
            raise TaskError(ValueError("the teacher cannot"))
        return Heard(fake_trace(int(request.key, 16), rows=2), None)


class World:
    """What is asked of the package ray, and what came of it."""

    def __init__(self, **how: Any) -> None:
        from importlib.metadata import version

        self.size, self.most, self.begun = 1, 0, Counter[str]()
        self.deadly: set[str] = set()
        self.bad: set[str] = set()
        self.breaks: set[str] = set()
        self.warms, self.version, self.actors = True, version("ekd"), list[Actor]()
        vars(self).update(how)
        self.exceptions = SimpleNamespace(RayTaskError=TaskError, RayError=RayError)
        self.cloudpickle = SimpleNamespace(dumps=lambda teacher: b"")

    def put(self, what: Any) -> Any:
        return what

    def get(self, what: Any) -> Any:
        return what

    def remote(self, kind: type) -> Method:
        return Method(lambda *words: self.actors.append(Actor(self)) or self.actors[-1])

    def kill(self, actor: Actor) -> None:
        actor.dead = True

    def wait(self, streams: list[Actor], num_returns: int, timeout: float) -> tuple[list[Actor], list[Actor]]:
        return [one for one in streams if one.said or one.held or one.dead][:1], []


def crew(world: World, workers: int = 2, in_flight: int = 4) -> RayCrew:
    share = Share(size=world.size, window=8 * world.size, in_flight=in_flight)
    return RayCrew(world, SimpleNamespace(), share, workers, {"num_cpus": 1, "num_gpus": 0}, again=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "in_flight"), [(1, 1), (1, 4), (4, 4), (4, 8)])
def test_every_request_is_answered_once_and_no_worker_has_more_than_it_may(size, in_flight):
    world = World(size=size)
    asked = crew(world, workers=3, in_flight=in_flight)
    made = list(asked.trace(all_at_once(ASKED)))
    assert sorted(one.key for one in made) == [r.key for r in ASKED] and all(isinstance(one, Trace) for one in made)
    assert world.most <= in_flight and set(world.begun.values()) == {1}
    assert sum(hand.traces for hand in asked.hands) == len(ASKED) and all(hand.traces for hand in asked.hands)


def test_nothing_is_claimed_before_a_worker_can_take_it_nor_more_than_they_can():
    asked, claims = crew(World(warms=False)), []
    made = asked.trace(lambda least, most: claims.append(1) or [])
    for actor in asked.hands:
        actor.actor.said.append(Warm())
    assert list(made) == [] and len(claims) == 1
    few = crew(World(), workers=1, in_flight=2)
    made = few.trace(lambda least, most: claims.append(1) or ASKED[:8])
    assert isinstance(next(made), Trace) and len(claims) == 2 and len(few.batches) == 6


def test_what_a_dead_worker_had_is_asked_again_and_only_that(capsys):
    world = World()
    asked = crew(world)
    made = []
    for n, one in enumerate(asked.trace(all_at_once(ASKED))):
        made.append(one)
        if n == 7:
            asked.hands[0].actor.dead, lost = True, len(asked.hands[0].flight)
    assert sorted(one.key for one in made) == [r.key for r in ASKED] and all(isinstance(one, Trace) for one in made)
    assert sum(world.begun.values()) == len(ASKED) + lost and asked.hands[0].deaths == 1
    assert f"worker 1 died, and another takes its place; {lost} requests are asked again" in capsys.readouterr().out


def test_a_request_that_kills_its_workers_fails_and_the_others_are_made():
    deadly = ASKED[3].key
    made = {one.key: one for one in crew(World(deadly={deadly}), in_flight=1).trace(all_at_once(ASKED))}
    failure = made.pop(deadly)
    assert isinstance(failure, Failure) and f"{TRIES} workers died" in failure.reason and "\n" not in failure.reason
    assert len(made) == len(ASKED) - 1 and all(isinstance(one, Trace) for one in made.values())


def test_workers_that_die_without_an_answer_end_the_run():
    with pytest.raises(ValueError, match=rf"worker \d died {DEATHS} times without an answer: its process ended"):
        list(crew(World(deadly={r.key for r in ASKED})).trace(all_at_once(ASKED)))


def test_failures_are_told_by_worker_and_what_the_teacher_says_of_itself_ends_the_run(capsys):
    asked = crew(World(bad={r.key for r in ASKED[::4]}), workers=1)
    failed = [one for one in asked.trace(all_at_once(ASKED)) if isinstance(one, Failure)]
    assert len(failed) == len(ASKED[::4]) and "(failed: worker 1 6)" in asked.note
    asked.close()
    assert "worker 1: 17 traces, " in capsys.readouterr().out
    with pytest.raises(ValueError, match="the teacher cannot"):
        list(crew(World(breaks={ASKED[5].key})).trace(all_at_once(ASKED)))


def test_a_worker_with_another_ekd_is_refused():
    with pytest.raises(ValueError, match=r"worker 1 has ekd 0\.0\.0, and this process "):
        list(crew(World(version="0.0.0")).trace(all_at_once(ASKED)))


def test_what_was_not_listened_to_is_no_answer_to_what_is_asked_next():
    asked = crew(World(), workers=1)
    begun = asked.trace(all_at_once(ASKED[:9]))
    next(begun)
    begun.close()
    again = [one.key for one in asked.trace(all_at_once(ASKED[9:]))]
    assert sorted(again) == [r.key for r in ASKED[9:]]


def test_a_worker_says_of_every_request_something(monkeypatch):
    """Also of one of which its teacher says nothing, and of those that come while it works."""
    cloudpickle = SimpleNamespace(loads=lambda teacher: Silent())
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(cloudpickle=cloudpickle))
    monkeypatch.setattr("ekd.engine.ray_worker.PAUSE", 0.01)
    worker = RayWorker(b"", again=False)
    says = worker.work()
    first, second = next(says), next(says)
    assert isinstance(first, Begun) and first.pid == os.getpid() and isinstance(second, Warm)
    for some in (ASKED[:3], ASKED[3:7]):
        worker.give(some)
        said = [next(says).result for _ in some]  # type: ignore[union-attr]
        assert sorted(one.key for one in said) == [r.key for r in some]
        assert [one.problem_id for one in said if isinstance(one, Failure)] == [r.problem_id for r in some if silent(r)]


def silent(request: Request) -> bool:
    return int(request.key, 16) % 5 == 1


class Silent:
    mode, exact, tokenizer = "generate", True, None

    def trace(self, requests):
        for request in requests:
            if not silent(request):
                yield fake_trace(int(request.key, 16), rows=2)


def test_settings_that_cannot_be_are_one_sentence(monkeypatch):
    for wrong, said in (
        ({"address": "ray://head:10001"}, r"engine\.address is HOST:PORT .* not 'ray://head:10001'"),
        ({"workers": 0}, "engine.workers is 1 or more, not 0"),
        ({"cpus": 0}, "engine.cpus .* not 0"),
        ({"gpus": 1.5}, "engine.gpus .* not 1.5"),
        ({"in_flight": 0}, "engine.in_flight .* not 0"),
    ):
        with pytest.raises(ValueError, match=said):
            Ray(**SETTINGS | wrong)
    teacher = SimpleNamespace(batch_size=8)
    with pytest.raises(ValueError, match=r"engine\.in_flight=4 is less than a batch .*=8\): give 16"):
        Ray(**SETTINGS | {"in_flight": 4}).open(teacher, again=False).__enter__()  # type: ignore[arg-type]
    monkeypatch.setenv(LOOPBACK, "0")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"ray is not installed: pip install 'ekd\[ray\]'"):
        imported(None)
    monkeypatch.delenv(LOOPBACK)
    with pytest.raises(ValueError, match="Ray was imported before"):
        imported(None)


def test_a_worker_is_kept_busy_by_two_batches_or_twice_what_a_server_does_at_once():
    assert usual(SimpleNamespace(batch_size=16)) == 32  # type: ignore[arg-type]
    assert usual(SimpleNamespace(concurrency=4, endpoints=["a", "b"])) == 16  # type: ignore[arg-type]
    assert usual(SimpleNamespace()) == 2  # type: ignore[arg-type]
