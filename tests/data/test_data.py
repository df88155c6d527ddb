"""Traces to batches: every response token is predicted exactly once, by the position before it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import collector, hf, traces
from torch.utils.data._utils.pin_memory import pin_memory

from ekd.data.batch_sampler import Batches, pack
from ekd.data.cached import TraceData, norm_column
from ekd.data.collate import Collate, wide
from ekd.data.collect import Collector
from ekd.dataset.jsonl import Jsonl
from ekd.models.spec import ModelSpec


def data(**changes) -> TraceData:
    values = {
        "collector": collector(), "train_problems": 12, "val_problems": 3, "val_split": "val", "samples": None,
        "max_tokens": 600, "packing": False, "temperature": 1.0, "seed": 0, "workers": 0,
    }  # fmt: skip
    return TraceData(**(values | changes))


def test_every_response_token_is_predicted_once_and_no_prompt_token_is():
    made = traces(5)
    batch = Collate(272)(made)
    assert batch.mask.sum() == sum(len(t.response_ids) for t in made)
    for i, trace in enumerate(made):
        text = [*trace.prompt_ids, *trace.response_ids]
        for t in range(batch.input_ids.shape[1]):
            supervised = len(trace.prompt_ids) - 1 <= t < len(text) - 1
            assert bool(batch.mask[i, t]) == supervised
            if supervised:
                assert int(batch.target_ids[i, t]) == text[t + 1]
                assert batch.input_ids[i, : t + 1].tolist() == text[: t + 1]


def test_rows_are_in_the_order_of_the_mask():
    made = traces(5)
    batch = Collate(272)(made)
    rows = batch.rows
    assert rows.target.tolist() == batch.target_ids[batch.mask].tolist()
    assert rows.sequence.tolist() == batch.mask.nonzero()[:, 0].tolist()
    assert rows.teacher_ids[:, 0].tolist() == rows.target.tolist()
    assert rows.position.tolist() == [p for t in made for p in range(len(t.response_ids))]
    assert rows.length.tolist() == [len(t.response_ids) for t in made for _ in t.response_ids]
    torch.testing.assert_close(rows.teacher_logprobs.exp().sum(1), torch.ones(len(rows.target)), atol=1e-5, rtol=0)


def test_the_end_token_is_a_row_like_any_other_though_it_pads_too():
    made = traces(8, teacher=hf(mode="score"))
    batch = Collate(272)(made)
    ends = batch.rows.target[batch.rows.end]
    assert len(ends) == 8 and (ends == 257).all()  # tiny's pad token is its end token


def test_wide_rows_hold_the_ragged_ones():
    ids, logprobs = wide(np.array([1, 3]), np.array([5, 7, 8, 9]), np.log([0.5, 0.2, 0.3, 0.1]), np.log([0.5, 0.4]))
    assert ids.tolist() == [[5, -1, -1], [7, 8, 9]]
    np.testing.assert_allclose(np.exp(logprobs), [[0.5, 0, 0, 0.5], [0.2, 0.3, 0.1, 0.4]], rtol=1e-6)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_an_epoch_without_overlap_and_in_the_order_of_one_rank(world):
    lengths = np.random.default_rng(0).integers(5, 60, 200).tolist()
    whole = Batches(lengths, max_tokens=128, seed=3).plan(0)
    parts = [Batches(lengths, max_tokens=128, seed=3, rank=r, world=world).plan(0) for r in range(world)]
    assert len({len(p) for p in parts}) == 1
    together = [batch for step in zip(*parts, strict=True) for batch in step]
    assert together == whole[: len(together)] and len(whole) - len(together) < world


def test_batches_hold_every_sequence_once_within_the_budget_and_change_with_pass_and_seed():
    lengths = np.random.default_rng(1).integers(5, 60, 300).tolist()
    plans = []
    for seed, number in ((0, 0), (0, 1), (1, 0)):
        plan = Batches(lengths, max_tokens=256, seed=seed).plan(number)
        assert sorted(i for batch in plan for i in batch) == list(range(300))
        assert all(max(lengths[i] for i in b) * len(b) <= 256 for b in plan)
        plans.append(plan)
    assert plans[0] != plans[1] and plans[0] != plans[2]
    assert plans[0] == Batches(lengths, max_tokens=256, seed=0).plan(0)


@pytest.mark.parametrize("position", [0, 1, 9, 57, 58, 59, 130])
def test_a_resumed_stream_goes_on_after_the_batches_that_are_done(position):
    lengths = np.random.default_rng(1).integers(5, 60, 300).tolist()
    fresh = Batches(lengths, max_tokens=200, seed=0)
    resumed = Batches(lengths, max_tokens=200, seed=0, position=position)
    stream = [batch for _ in range(4) for batch in fresh]
    assert len(stream) == 4 * len(fresh)
    rest = list(resumed)
    assert len(rest) == len(fresh) - position % len(fresh)  # to the end of the epoch that was interrupted
    assert rest + list(resumed) == stream[position : position + len(rest) + len(fresh)]


def test_padding_is_small():
    lengths = np.random.default_rng(2).integers(20, 400, 1000).tolist()
    plan = Batches(lengths, max_tokens=2048, seed=0).plan(0)
    padded = sum(max(lengths[i] for i in b) * len(b) for b in plan)
    assert padded < 1.1 * sum(lengths)


def test_pack_gives_a_long_one_its_own_batch():
    assert pack([0, 1, 2], [10, 100, 10], 100) == [[0], [1], [2]]


def test_a_trace_longer_than_the_budget_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"data.max_tokens is 20: raise"):
        Batches([5, 21], max_tokens=20)


def test_batches_wait_in_pinned_memory_for_a_gpu_and_for_nothing_else(monkeypatch):
    served, collate, some = data(), Collate(272), traces(3)
    assert not served.as_loader(some, [[0, 1, 2]], collector().open()).pin_memory
    monkeypatch.setattr(TraceData, "_device", lambda self: "cuda")
    assert served.as_loader(some, [[0, 1, 2]], collector().open()).pin_memory
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)  # no GPU is at hand
    before = collate(some)
    after = pin_memory(before)
    assert type(after) is type(before) and type(after.rows) is type(before.rows)
    assert tuple(after.rows.teachers) == before.rows.teachers and after.shared == before.shared
    held = [value for value in (*before, *before.rows) if isinstance(value, torch.Tensor)]
    assert {id(tensor) for tensor in pinned} == {id(tensor) for tensor in held}


def test_another_temperature_needs_traces_that_know_it():
    assert norm_column([], 1.0) is None and norm_column([2.0, 3.0], 3.0) == 1
    with pytest.raises(ValueError, match=r"trace with teacher.temperatures=\[2.0\]"):
        data(temperature=2.0).prepare_data()


def test_traces_are_collected_once_whatever_comes_later(monkeypatch):
    first = data()
    first.prepare_data()
    assert first.collected["train"].made == 12 and first.collected["val"].made == 3
    again = data(seed=7, max_tokens=400)
    again.prepare_data()
    assert again.collected["train"].made == again.collected["val"].made == 0
    more = data(train_problems=14)
    more.prepare_data()
    assert more.collected["train"].made == 2


def test_an_interrupted_collection_keeps_what_was_done():
    class Stops(type(hf())):  # a teacher that a person stops after seven traces
        def trace(self, requests):
            for i, trace in enumerate(super().trace(requests)):
                if i == 7:
                    raise KeyboardInterrupt
                yield trace

    teacher = hf()
    stopped = data(collector=collector(teacher=Stops(**{k: v for k, v in vars(teacher).items() if k != "exact"})))
    with pytest.raises(KeyboardInterrupt):
        stopped.prepare_data()
    second = data()
    second.prepare_data()
    assert second.collected["train"].made == 5


def test_a_store_made_by_another_teacher_is_refused_with_both_origins(tmp_path):
    data(collector=collector(store=str(tmp_path / "s"))).prepare_data()
    other = data(collector=collector(store=str(tmp_path / "s"), teacher=hf(model="tiny:2")))
    with pytest.raises(ValueError, match="tiny:1") as error:
        other.prepare_data()
    assert "tiny:2" in str(error.value)


def test_too_many_problems_and_missing_solutions_are_said_before_any_work():
    with pytest.raises(ValueError, match="train split has 24 problems; 99 were asked for"):
        collector().requests("train", 99)
    with pytest.raises(ValueError, match=r"samples=2 needs teacher\.mode=generate"):
        collector(teacher=hf(mode="score"), samples=2)


def test_the_teacher_is_loaded_once_for_all_splits_and_not_where_nothing_is_missing(monkeypatch):
    loads, load = [], ModelSpec.load_writer
    monkeypatch.setattr(ModelSpec, "load_writer", lambda spec: loads.append(spec.model) or load(spec))
    served = data()
    served.prepare_data()
    assert loads == ["tiny:1"] and served.collected.keys() == {"train", "val"}
    assert served.collector.teacher.loaded is None  # while the student learns its memory is free
    data().prepare_data()
    assert loads == ["tiny:1"]


def test_files_are_opened_once_and_requests_made_once_a_run(tmp_path, monkeypatch):
    files = [tmp_path / f"{split}.jsonl" for split in ("train", "test")]
    for file in files:
        lines = [{"question": f"{file.stem} {n}?", "answer": str(n)} for n in range(12)]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    opened, asked, read, make = [], [], Path.read_bytes, Collector._requests
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path) or read(path))
    monkeypatch.setattr(Collector, "_requests", lambda self, *what: asked.append(what[0]) or make(self, *what))
    columns = {"question": "question", "answer": "answer", "solution": "solution", "id": "id"}
    given = {"train": str(files[0]), "val": None, "test": str(files[1]), "val_percent": 30, **columns}
    served = data(collector=collector(dataset=Jsonl(**given)), train_problems=None, val_problems=None)
    served.prepare_data()
    served.setup("fit")
    served.train_dataloader(), served.val_dataloader(), served.account()
    assert len(Jsonl(**given).problems("test")) == 12  # as the benchmark's own dataset asks
    assert sorted(opened) == sorted(files) and sorted(asked) == ["train", "val"]
    files[1].write_text(files[1].read_text().splitlines()[0] + "\n")
    assert len(Jsonl(**given).problems("test")) == 1  # a file that is another is read again
