"""The sample axis: whole traces, chosen before training by what the untrained student thinks, or by chance."""

from __future__ import annotations

import errno
import json

import numpy as np
import pytest
import torch
from conftest import collector, hf
from test_data import data

import ekd.data.trace_filter
import ekd.models.spec
from ekd.data.collate import Collate
from ekd.data.trace_filter import RandomSamples, TopSamples
from ekd.models.load import load_model
from ekd.models.rows import rows_where
from ekd.signal.bandit import Bandit
from ekd.signal.kl import KL
from ekd.signal.soft_or import SoftOr
from ekd.signal.student_entropy import StudentEntropy
from ekd.signal.teacher_entropy import TeacherEntropy
from ekd.signal.weighted import Weighted


def top(**changes) -> TopSamples:
    values = {
        "percent": 30, "by": StudentEntropy(), "model": "tiny", "layers": "all", "dtype": "float32",
        "attention": "sdpa", "quantize": None, "trust_remote_code": False, "max_tokens": 600, "head_mb": 1.0,
    }  # fmt: skip
    return TopSamples(**(values | changes))


def stored(**changes):
    maker = collector(**changes)
    keys = maker.collect("train", 10).keys
    return maker.open(), keys


def log_softmax(model: str, trace) -> torch.Tensor:
    """(n, V) of every response row, by one plain forward pass."""
    text = torch.tensor([[*trace.prompt_ids, *trace.response_ids]])
    with torch.no_grad():
        return load_model(model).eval()(text).logits[0, len(trace.prompt_ids) - 1 : -1].double().log_softmax(-1)


def test_the_traces_with_the_highest_mean_entropy_of_the_untrained_student_are_kept_in_their_order():
    store, keys = stored()
    plain = {}
    for key in keys:
        q = log_softmax("tiny", store[key])
        plain[key] = float(-(q.exp() * q).sum(-1).mean())
    scores = top().scores(store, keys)
    np.testing.assert_allclose([scores[k] for k in keys], [plain[k] for k in keys], atol=1e-4)
    best = sorted(keys, key=lambda k: -plain[k])
    assert top().keep(store, keys) == [k for k in keys if k in best[:3]]
    assert top(percent=31).keep(store, keys) == [k for k in keys if k in best[:4]]
    assert top(percent=0.1).keep(store, keys) == best[:1] and top(percent=100).keep(store, keys) == keys


def test_kl_and_signals_of_the_trace_alone_rank_too():
    store, keys = stored(teacher=hf(mass=1.0, max_k=272))
    scores = top(by=KL()).scores(store, keys)
    for key in keys:
        p, q = log_softmax("tiny:1", store[key]), log_softmax("tiny", store[key])
        assert scores[key] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), abs=2e-3)
    scores = top(by=TeacherEntropy()).scores(store, keys)
    assert scores[keys[0]] == pytest.approx(store[keys[0]].entropy.mean(), abs=1e-6)


def test_a_score_does_not_depend_on_the_batch_even_where_the_signal_does():
    store, keys = stored()
    for by in (StudentEntropy(), SoftOr(scale="minmax")):
        many = dict(top(by=by).score(store, keys))
        one = dict(top(by=by, max_tokens=1).score(store, keys))
        assert many == pytest.approx(one, abs=1e-5) and many.keys() == set(keys)


def test_scores_are_made_once_for_each_student_and_signal_and_kept_beside_the_store(monkeypatch):
    store, keys = stored()
    kept = top().keep(store, keys[:6])
    calls = []
    monkeypatch.setattr(ekd.models.spec, "load_model", lambda *a, **k: calls.append(a) or load_model(*a, **k))
    assert top().keep(store, keys[:6]) == kept and not calls
    top().keep(store, keys)  # four more traces: only these are scored
    top(by=KL()).keep(store, keys)
    top(model="tiny:3").keep(store, keys)
    assert len(calls) == 3
    files = [json.loads(file.read_text()) for file in (store.path / "scores").glob("*.json")]
    assert len(files) == 3 and all(set(file["scores"]) == set(keys) for file in files)
    assert {file["signal"] for file in files} == {"StudentEntropy()", "KL()"}


def test_what_was_scored_before_a_crash_is_kept(monkeypatch):
    store, keys = stored()

    def broken(self, store, keys):
        yield keys[0], 1.0
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TopSamples, "score", broken)
        top().scores(store, keys)
    assert top().scores(store, keys)[keys[0]] == 1.0


def test_the_scores_of_a_store_that_cannot_be_written_are_kept_apart(monkeypatch, tmp_path):
    store, keys = stored()
    write = ekd.data.trace_filter.write_json

    def read_only(file, content):
        if file.is_relative_to(store.path):
            raise OSError(errno.EROFS, "Read-only file system", str(file))
        write(file, content)

    monkeypatch.setenv("EKD_HOME", str(tmp_path))
    monkeypatch.setattr(ekd.data.trace_filter, "write_json", read_only)
    scores = top().scores(store, keys)
    (file,) = (tmp_path / "scores").iterdir()
    assert json.loads(file.read_text())["scores"] == scores
    monkeypatch.setattr(TopSamples, "score", lambda *a: pytest.fail("scored again"))
    assert top().scores(store, keys) == scores
    other, _ = stored(teacher=hf(mass=1.0, max_k=272))
    assert ekd.data.trace_filter.files(store, {})[1] != ekd.data.trace_filter.files(other, {})[1]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: data.replace(b"0", b"1", 1), lambda data: b'{"scores": {"a": "b"}}']
)
def test_a_damaged_file_of_scores_is_named(damage):
    store, keys = stored()
    top().scores(store, keys)
    (file,) = (store.path / "scores").glob("*.json")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=rf"{file.name} is damaged .*delete it, and its traces are scored again"):
        top().scores(store, keys)


def test_random_samples_are_a_share_by_seed_whatever_the_order():
    store, keys = stored()
    kept = RandomSamples(percent=30, seed=0).keep(store, keys)
    assert len(kept) == 3 and kept == [k for k in keys if k in kept]
    assert set(RandomSamples(percent=30, seed=0).keep(store, keys[::-1])) == set(kept)
    assert any(RandomSamples(percent=30, seed=s).keep(store, keys) != kept for s in range(1, 4))


@pytest.mark.parametrize("samples", [top(percent=25), RandomSamples(percent=25, seed=1)])
def test_data_serves_only_what_is_kept_and_validation_stays_whole(samples):
    loader = data(samples=samples)
    loader.prepare_data()
    loader.setup("fit")
    keys = loader.collector.present("train", 12)
    assert loader.train_dataloader().dataset.keys == samples.keep(loader.store, keys)
    assert len(loader.train_dataloader().dataset) == 3 and len(loader.val_dataloader().dataset) == 3


def test_the_first_rank_scores_and_the_others_read(monkeypatch):
    data(samples=top()).prepare_data()
    monkeypatch.setattr(TopSamples, "score", lambda *a: pytest.fail("scored again"))
    other = data(samples=top())
    other.setup("fit")
    assert len(other.train_dataloader().dataset) == 4


def test_unmatched_rows_are_in_no_mean():
    store, keys = stored()
    trace = store[keys[0]]
    assert len(trace.response_ids) > 2
    rows = Collate(272)([trace]).rows
    half = rows_where(rows, rows.position < 2)
    assert ekd.data.trace_filter.mean_score(TeacherEntropy(), half) == pytest.approx(trace.entropy[:2].mean(), abs=1e-6)
    assert ekd.data.trace_filter.mean_score(TeacherEntropy(), rows_where(rows, rows.position < 0)) == float("-inf")


def test_what_cannot_rank_is_refused():
    with pytest.raises(ValueError, match="above 0 and at most 100, not 0"):
        top(percent=0)
    with pytest.raises(ValueError, match="at most 100, not 101"):
        RandomSamples(percent=101, seed=0)
    bandit = Bandit(tokenizer="tiny", explore=1.0, ridge=1.0, clip=5.0, accumulate=1, trust_remote_code=False)
    with pytest.raises(ValueError, match="knows nothing before training"):
        top(by=bandit)
    store, keys = stored()
    flat = Weighted(signals={"a": TeacherEntropy()}, weights={"a": 1.0}, normalise="z")
    with pytest.raises(ValueError, match="normalise=none"):
        top(by=flat).keep(store, keys)
