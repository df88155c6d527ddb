"""Several processes on one collection: nobody asks for what another asks for, and a dead one's work is taken over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from fake_traces import fake_trace

from ekd.store import presence
from ekd.store.address import Address
from ekd.store.leases import Leases
from ekd.store.presence import LOCK, PULSE, Presence, is_dead, present
from ekd.store.repair import verify
from ekd.store.shard import part
from ekd.store.store import Store
from ekd.store.unsaved import Unsaved
from ekd.types import Failure, Request

ORIGIN = {"vocab": 1000, "teacher": "nobody"}
TRACES = {f"{seed:032x}": fake_trace(seed, rows=5) for seed in range(24)}
ASKED = [Request(key, f"problem/{key}", 0, 0, [1]) for key in TRACES]


class Process:
    """What one process does, a step at a time."""

    def __init__(self, folder: Path | Address, stack: ExitStack, *, whole: bool = False, size: int = 1) -> None:
        self.store = Store.create(folder, ORIGIN)
        self.own = stack.enter_context(Presence(folder))
        groups = [ASKED[at : at + size] for at in range(0, len(ASKED), size)]
        self.leases = Leases(self.store, self.own, groups, 60.0, whole=whole)
        self.waiting = Unsaved(self.store, self.own)

    def claim(self, least: int = 1, most: int = 4) -> list[str]:
        return [request.key for request in self.leases.claim(least, most)]

    def make(self, keys: list[str]) -> None:
        for key in keys:
            self.waiting.add(part(TRACES[key], self.store.layout))

    def die(self) -> None:
        """As the system leaves it: the lock is free, everything else stays."""
        self.own.over.set()
        self.own.lock.release()


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def folder(root: Path | Address) -> Path | Address:
    return root / "s"


def test_nobody_claims_what_another_has_and_all_is_claimed(folder, stack):
    some, claimed = [Process(folder, stack) for _ in range(3)], []
    while found := [key for process in some for key in process.claim()]:
        claimed += found
    assert sorted(claimed) == sorted(TRACES)
    assert all(process.leases.waiting == len(process.leases.left) for process in some)


def test_little_is_claimed_where_little_is_left_and_all_where_nobody_may_come(folder, stack):
    one, other = Process(folder, stack), Process(folder, stack)
    assert len(one.claim(1, 999)) == len(ASKED) // 4  # half of what would be its share
    assert len(other.claim(9, 999)) == 9  # a good batch
    one.die(), other.die()
    assert len(Process(folder, stack, whole=True).claim(1, 999)) == len(ASKED)


def test_a_share_is_one_of_what_is_free_not_of_what_others_have_or_have_made(folder, stack):
    one, other = Process(folder, stack), Process(folder, stack)
    one.make(one.claim(12, 999))
    one.waiting.flush()
    one.claim(4, 999)
    assert other.leases.waiting == len(ASKED)  # as far as it knows
    assert len(other.claim(1, 999)) == (len(ASKED) - 12 - 4) // 4


def test_what_is_made_together_is_claimed_together(folder, stack):
    one, other = Process(folder, stack, size=8), Process(folder, stack, size=8)
    assert (len(one.claim()), len(other.claim()), len(one.claim()), other.claim()) == (8, 8, 8, [])


def test_a_dead_process_is_taken_over_at_once_and_what_it_had_made_is_not_made_again(folder, stack):
    dead, heir = Process(folder, stack), Process(folder, stack)
    keys = dead.claim()
    dead.make(keys[:3])
    assert not set(keys) & set(heir.claim())
    dead.die()
    left = set()
    while found := heir.claim():
        left |= set(found)
    assert keys[3] in left and not set(keys[:3]) & left
    assert set(keys[:3]) <= heir.store.keys() and present(folder) == [heir.own.folder]


def test_a_process_that_was_stopped_for_long_is_taken_for_dead_and_comes_back(folder, stack, monkeypatch):
    """Its lock is still held, as is that of a machine whose locks nobody sees: the heartbeat says it."""
    stopped, heir = Process(folder, stack), Process(folder, stack)
    keys = stopped.claim()
    stopped.make(keys[:2])
    if isinstance(folder, Path):
        os.utime(stopped.own.folder / PULSE, (1, 1))
    else:  # an object is as old as it is
        seen, name = presence.last_sign, stopped.own.folder.name
        monkeypatch.setattr(presence, "last_sign", lambda f, never: 1.0 if f.name == name else seen(f, never))
    while heir.claim():
        pass
    assert set(keys[2:]) <= heir.leases.held and set(keys[:2]) <= heir.store.keys()
    stopped.make(keys[2:])  # it goes on with what was at its teacher
    stopped.waiting.flush()
    assert stopped.claim() == [] and stopped.own.folder.exists()  # nothing is left that nobody has
    heir.make(sorted(heir.leases.held))
    heir.waiting.flush()
    assert verify(folder)[2:] == ([], []) and Store(folder).keys() == set(TRACES)


def test_whoever_has_only_just_come_is_alive(tmp_path):
    folder = tmp_path / "s"
    Store.create(folder, ORIGIN)
    with Presence(folder) as own:
        now = own.folder.stat().st_mtime
        (own.folder / PULSE).unlink()
        assert not is_dead(own.folder, now + 1, 60)
        (own.folder / LOCK).unlink()
        assert not is_dead(own.folder, now + 1, 60)
        assert is_dead(own.folder, now + 99, 60)


def test_what_failed_for_one_is_not_tried_by_the_others_but_by_the_next_collection(folder, stack):
    one, other = Process(folder, stack, whole=True), Process(folder, stack)
    assert (len(one.claim(1, 999)), other.claim()) == (len(ASKED), [])
    one.leases.failed = {key: Failure(key, "p", "no answer") for key in list(TRACES)[:3]}
    one.make(list(TRACES)[3:])
    one.waiting.flush()
    one.leases.finish()
    one.own.__exit__(None, None, None)
    assert other.claim() == [] and not other.leases.left
    assert other.leases.failed.keys() == set(list(TRACES)[:3])
    other.leases.finish()
    other.own.__exit__(None, None, None)
    assert Process(folder, stack, whole=True).claim(1, 999) == list(TRACES)[:3]


def test_a_lease_that_nobody_wrote_is_one_sentence(folder, stack):
    one, other = Process(folder, stack), Process(folder, stack)
    one.claim()
    (one.own.folder / "lease.json").write_text("{")
    with pytest.raises(ValueError, match=r"lease\.json is damaged"):
        other.claim()


def test_processes_that_are_killed_again_and_again():
    script = Path(__file__).parents[2] / "scripts" / "torture_leases.py"
    command = [sys.executable, str(script), "--requests", "60", "--every", "0.7", "--seconds", "0.03"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["wrong"] == []
