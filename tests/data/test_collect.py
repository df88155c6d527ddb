"""Collecting: nothing that a teacher has answered is lost, whatever happens to the process or to another answer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from conftest import collector, hf
from fake_traces import fake_trace

from ekd.data.collect import Collected, Collector
from ekd.store.leases import Leases
from ekd.store.presence import FOLDER, Presence, present
from ekd.store.shard import part
from ekd.store.store import Store
from ekd.store.unsaved import Unsaved, recover
from ekd.types import Failure, Request, Trace

N = 10


class Watched(type(hf())):
    """At the seventh answer, the disk as a kill would leave it is put aside."""

    folder: ClassVar[Path]
    aside: ClassVar[Path]

    def trace(self, requests) -> Iterator[Trace | Failure]:
        for n, trace in enumerate(super().trace(requests)):
            if n == 7:
                shutil.copytree(self.folder, self.aside)
            yield trace


def settings() -> dict:
    return {name: value for name, value in vars(hf()).items() if name != "exact"}


@pytest.fixture
def killed(tmp_path: Path) -> tuple[Collector, Path]:
    """A whole collection, and the folder that a kill after seven answers would have left."""
    Watched.folder, Watched.aside = tmp_path / "whole", tmp_path / "killed"
    whole = collector(teacher=Watched(**settings()), store=str(Watched.folder))
    assert whole.collect("train", N).made == N
    return whole, Watched.aside


def same(one: Store, other: Store) -> None:
    assert one.keys() == other.keys()
    for key in one.keys():  # noqa: SIM118
        for name, a, b in zip(Trace._fields, one[key], other[key], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=f"{key} {name}")


def test_a_kill_loses_no_answer_that_was_in(killed: tuple[Collector, Path]) -> None:
    whole, aside = killed
    assert len(Store(aside)) == 0  # no shard was made yet
    again = collector(store=str(aside))
    assert len(again.present("train", N)) == 7
    assert again.collect("train", N).made == N - 7
    same(whole.open(), again.open())
    for store in (whole.open(), again.open()):
        assert not present(store.path)
    assert len(whole.open().shards) == 1  # not a file for each answer


def test_a_kill_between_the_shard_and_the_tidying_up_stores_nothing_twice(killed: tuple[Collector, Path]) -> None:
    whole, aside = killed
    shutil.copytree(aside / FOLDER, whole.open().path / FOLDER, dirs_exist_ok=True)
    assert recover(Store(whole.open().path)) == 0  # `open` had done it
    assert len(whole.open()) == N


def test_what_is_torn_or_not_of_this_store_is_left_out(killed: tuple[Collector, Path], tmp_path: Path) -> None:
    _, aside = killed
    first, second, third, *_ = sorted(present(aside)[0].glob("*.arrows"))
    first.write_bytes(first.read_bytes()[:200])
    flipped = bytearray(second.read_bytes())
    flipped[-200] ^= 1
    second.write_bytes(flipped)
    third.rename(tmp_path / "elsewhere.arrows")
    third.symlink_to(tmp_path / "elsewhere.arrows")
    other = collector(store=str(tmp_path / "other"), seed=1, teacher=hf(temperature=0.5))
    other.collect("train", 1)
    stranger = next((tmp_path / "other" / "shards").glob("*.arrows"))
    shutil.copy(stranger, present(aside)[0] / "stranger.arrows")
    assert len(collector(store=str(aside)).open()) == 4


def test_an_unsound_trace_is_a_failure_by_name_and_the_others_are_stored(tmp_path: Path) -> None:
    class Unsound(type(hf())):
        def trace(self, requests) -> Iterator[Trace | Failure]:
            for n, trace in enumerate(super().trace(requests)):
                yield trace._replace(ids=np.full_like(trace.ids, -1)) if n == 3 else trace

    made = collector(teacher=Unsound(**settings()), store=str(tmp_path / "s"))
    collected = made.collect("train", N)
    (failure,) = collected.failures
    assert "is not sound" in failure.reason
    assert failure.problem_id not in [made.open()[key].problem_id for key in collected.keys]
    assert (collected.made, len(made.open())) == (N - 1, N - 1)


def test_a_full_disk_is_one_sentence_and_what_was_saved_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = collector(store=str(tmp_path / "s"))
    made.collect("train", 4)

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ValueError, match=r"could not be saved .*No space left.*the 4 saved before are whole"):
        made.collect("train", N)
    assert len(made.open()) >= 4


def test_a_trace_on_its_way_reaches_the_disk_within_a_second(tmp_path, monkeypatch):
    reached, now = [], [0.0]
    monkeypatch.setattr("ekd.store.unsaved.sync", lambda path: reached.append(path.name))
    monkeypatch.setattr("ekd.store.unsaved.monotonic", lambda: now[0])
    store = Store.create(tmp_path / "s", {"vocab": 1000})
    with Presence(store.path) as own:
        waiting = Unsaved(store, own)
        for seed, now[0] in enumerate((10.0, 10.4, 10.8, 11.2)):
            waiting.add(part(fake_trace(seed), store.layout))
        first, *others = (file.name for file in waiting.files)
        assert reached == [first, own.folder.name, *others, own.folder.name]


def test_two_collections_at_once_share_the_work_and_both_end_with_all_of_it(tmp_path: Path) -> None:
    """The second starts within the first's third answer, and does what the first has not claimed."""
    other = collector(store=str(tmp_path / "s"), share=True)

    class Meets(type(hf())):
        met: ClassVar[list[Collected]] = []

        def trace(self, requests) -> Iterator[Trace | Failure]:
            for n, trace in enumerate(super().trace(requests)):
                if n == 3 and not self.met:
                    self.met.append(other.collect("train", N))
                yield trace

    def late(self, least: int, most: int) -> list[Request]:
        """As `claim`; but whoever would wait for the others leaves it to them."""
        found = claim(self, least, most)
        self.left.clear() if not found else None
        return found

    claim = Leases.claim
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Leases, "claim", late)
        first = collector(teacher=Meets(**settings()), store=str(tmp_path / "s"), share=True).collect("train", N)
    assert (first.made, Meets.met[0].made) == (N // 2, N // 2)  # the first had claimed half when the second came
    assert len(first.keys) == N and len(Store(tmp_path / "s")) == N
    assert not present(tmp_path / "s")


def test_a_request_that_the_teacher_says_nothing_of_is_a_failure(tmp_path: Path) -> None:
    class Silent(type(hf())):
        def trace(self, requests) -> Iterator[Trace | Failure]:
            yield from list(super().trace(requests))[1:]

    made = collector(teacher=Silent(**settings()), store=str(tmp_path / "s")).collect("train", 4)
    assert [failure.reason for failure in made.failures] == ["the teacher did not say anything of it"]
    assert made.made == 3


def test_patience_is_longer_than_some_heartbeats() -> None:
    with pytest.raises(ValueError, match=r"data\.collector\.patience is 6 seconds or more .*not 1"):
        collector(patience=1)
