import multiprocessing
import os
import pickle
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from fake_traces import fake_trace, same
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from ekd import files
from ekd.store import location
from ekd.store.manifest import read_manifest
from ekd.store.repair import verify
from ekd.store.store import Store

ORIGIN = {"vocab": 1000, "teacher": {"model": "nobody", "mass": 0.99}, "temperatures": []}
TRACES = [fake_trace(seed) for seed in range(12)]


def filled(path: Path, *batches: list) -> Store:
    store = Store.create(path, ORIGIN)
    for batch in batches:
        store.append(batch)
    return store


def equal(store: Store, expected: list) -> bool:
    """Same keys; whatever the way there, the same bits."""
    peaceful = {trace.key: trace for trace in expected}
    return store.keys() == peaceful.keys() and all(same(store[key], READ[key]) for key in peaceful)


@pytest.fixture(scope="module", autouse=True)
def read_once(tmp_path_factory):
    """What each trace looks like when read from a store that was written in one go."""
    store = filled(tmp_path_factory.mktemp("reference") / "s", TRACES)
    READ.update({key: store[key] for key in sorted(store.keys())})


READ: dict = {}


def test_what_is_appended_is_there_for_the_next_reader(root):
    store = filled(root / "s", TRACES[:5], TRACES[5:])
    assert equal(store, TRACES)
    assert equal(Store(root / "s"), TRACES)
    assert len(store) == 12
    trace = TRACES[3]
    assert store.lengths() == {trace.key: (len(trace.prompt_ids), len(trace.response_ids)) for trace in TRACES}
    back = store[trace.key]
    assert (back.problem_id, back.sample, back.finish, back.exact) == (
        trace.problem_id,
        trace.sample,
        trace.finish,
        True,
    )
    assert back.prompt_ids.tolist() == trace.prompt_ids.tolist()


@settings(deadline=None, max_examples=8)
@given(order=st.permutations(range(12)), cuts=st.sets(st.integers(1, 11), max_size=4))
def test_order_and_batches_never_matter(tmp_path_factory, order, cuts):
    edges = [0, *sorted(cuts), 12]
    batches = [[TRACES[i] for i in order[a:b]] for a, b in pairwise(edges)]
    assert equal(filled(tmp_path_factory.mktemp("s") / "s", *batches), TRACES)


def test_a_key_is_kept_once(root):
    store = filled(root / "s", TRACES[:5], TRACES[:5], [*TRACES, *TRACES])
    assert equal(store, TRACES)
    assert verify(root / "s") == (12, sum(len(t.response_ids) for t in TRACES), [], [])


def test_nothing_to_append_writes_nothing(root):
    store = filled(root / "s", [])
    store.append([])
    assert store.keys() == set()
    assert not list((root / "s" / "shards").iterdir())


def test_another_origin_is_refused_and_both_are_shown(root):
    filled(root / "s", TRACES)
    other = {**ORIGIN, "teacher": {"model": "somebody", "mass": 0.99}}
    with pytest.raises(ValueError, match=r"teacher\.model: 'nobody' in the store, 'somebody' asked for") as caught:
        Store.create(root / "s", other)
    assert "mass" not in str(caught.value)
    assert "another store folder" in str(caught.value)


@pytest.mark.parametrize(
    "bad", [{}, {"vocab": 0}, {"vocab": "many"}, {"vocab": 9, "draws": -1}, {"vocab": 9, "coarse": 0}]
)
def test_an_origin_that_says_nothing_of_the_rows_is_refused(tmp_path, bad):
    with pytest.raises(ValueError, match="origin"):
        Store.create(tmp_path / "s", bad)
    assert not (tmp_path / "s").exists()


def silent(trace):
    """A row whose ids all have probability 0."""
    row = slice(0, int(trace.counts[0]))
    logprobs, tail = trace.logprobs.copy(), trace.log_tail.copy()
    logprobs[row], tail[0] = -np.inf, 0
    return trace._replace(logprobs=logprobs, log_tail=tail)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda trace: trace._replace(entropy=trace.entropy[:-1]),
        lambda trace: trace._replace(ids=-trace.ids),
        lambda trace: trace._replace(log_tail=trace.log_tail * np.nan),
        lambda trace: trace._replace(problem_id="\ud800"),
        lambda trace: trace._replace(problem_id=None),
        lambda trace: trace._replace(sample=1 << 40),
        lambda trace: trace._replace(finish="crash"),
        silent,
    ],
)
def test_an_unsound_trace_is_refused_by_name_and_costs_itself_alone(root, spoil):
    store = filled(root / "s", TRACES[:2])
    with pytest.raises(ValueError, match=f"{TRACES[3].key}.*the other 2 are saved"):
        store.append([TRACES[2], spoil(TRACES[3]), TRACES[4]])
    assert equal(Store(root / "s"), [*TRACES[:3], TRACES[4]])


def test_prompts_of_many_samples_are_kept_once(root):
    long = fake_trace(1, rows=1, unmatched=1.0)
    prompt = fake_trace(2, rows=900).response_ids
    samples = [long._replace(key=f"k{i}", sample=i, prompt_ids=prompt) for i in range(50)]
    store = filled(root / "s", samples)
    assert all(store[t.key].prompt_ids.tolist() == prompt.tolist() for t in samples)
    size = sum(shard["bytes"] for shard in store.shards.values())
    assert size < 50 * len(prompt)


def test_a_reader_sees_what_another_process_finishes(root):
    reader = filled(root / "s", TRACES[:3])
    filled(root / "s", TRACES[3:])
    assert equal(reader, TRACES)


def test_logs_are_folded_while_others_write_and_read(root):
    writer, reader = filled(root / "s", TRACES[:2]), Store(root / "s")
    for at in range(2, 12, 2):
        Store.create(root / "s", ORIGIN)  # folds
        assert not list((root / "s" / "log").iterdir())
        writer.append(TRACES[at : at + 2])
        assert reader.keys() == writer.keys() == {trace.key for trace in TRACES[: at + 2]}
    assert len(read_manifest(root / "s")["shards"]) == 5
    assert equal(Store(root / "s"), TRACES)


def test_a_writer_costs_no_more_for_the_shards_that_are_there(tmp_path):
    """No line of the manifest is written again."""
    store = filled(tmp_path / "s", TRACES[:1])
    before = (tmp_path / "s" / "manifest.json").stat()
    store.append(TRACES[1:])
    after = (tmp_path / "s" / "manifest.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_store_travels_to_loader_workers(root):
    store = filled(root / "s", TRACES)
    assert equal(pickle.loads(pickle.dumps(store)), TRACES)  # noqa: S301 (as torch's loader does with its own)


def test_several_loader_workers_read_one_store(root):
    store = filled(root / "s", TRACES[:6], TRACES[6:])
    keys = [trace.key for trace in TRACES]
    loader = DataLoader(Reader(store, keys), batch_size=None, num_workers=2, collate_fn=as_it_is)
    assert all(same(trace, READ[trace.key]) for trace in loader)


def as_it_is(trace):
    return trace


class Reader(Dataset):
    def __init__(self, store: Store, keys: list[str]):
        self.store, self.keys = store, keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int):
        return self.store[self.keys[index]]


def test_more_shards_than_may_be_open(root, monkeypatch):
    monkeypatch.setattr("ekd.store.store.OPEN", 2)
    store = filled(root / "s", *[[trace] for trace in TRACES])
    assert equal(store, TRACES)
    assert len(store._open) == 2


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux says what is open")
def test_an_open_shard_holds_no_file_descriptor(tmp_path):
    """So that thousands may be open, where a process may open 1,024 files."""
    store = filled(tmp_path / "s", *[[trace] for trace in TRACES])
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert equal(store, TRACES)
    assert len(store._open) == len(TRACES)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def write(path: Path, seed: int) -> None:
    mine = random.Random(seed).sample(TRACES, len(TRACES))
    store = Store.create(path, ORIGIN)
    for at in range(0, len(mine), 2):
        store.append(mine[at : at + 2])


def test_several_writers_share_a_store(tmp_path):
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=write, args=(tmp_path / "s", seed)) for seed in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert equal(Store(tmp_path / "s"), TRACES)
    assert verify(tmp_path / "s").traces == 12


def die_at(path: Path, step: int) -> None:
    """Append, and die at the given system call that makes something durable."""
    calls = iter(range(100))
    real = os.fsync

    def fsync(handle: int) -> None:
        if next(calls) == step:
            os._exit(9)
        real(handle)

    os.fsync = fsync
    Store.create(path, ORIGIN).append(TRACES[4:])
    os._exit(0)


@pytest.mark.parametrize("step", range(6))
def test_dying_at_any_step_of_an_append_loses_nothing_finished(tmp_path, step):
    filled(tmp_path / "s", TRACES[:4])
    child = multiprocessing.get_context("fork").Process(target=die_at, args=(tmp_path / "s", step))
    child.start()
    child.join()
    assert child.exitcode == 9
    assert Store(tmp_path / "s").keys() >= {trace.key for trace in TRACES[:4]}
    store = Store.create(tmp_path / "s", ORIGIN)  # the same command again
    done = store.keys()
    store.append([trace for trace in TRACES if trace.key not in done])
    assert equal(store, TRACES)
    assert verify(tmp_path / "s")[2:] == ([], [])


def test_an_append_has_six_steps():
    """Manifest and its folder when the logs are folded; shard, log, and their folders: `step` above covers them all."""
    assert Path(files.__file__).read_text().count("os.fsync(") == 2  # in replace and in sync, which replace calls
    assert Path(location.__file__).read_text().count("os.fsync(") == 1


def test_ten_kills_at_random_moments():
    script = Path(__file__).parents[2] / "scripts" / "torture_store.py"
    command = [sys.executable, str(script), "--kills", "10", "--traces", "400", "--writers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"wrong": []' in done.stdout
