"""Several teachers that read one text: the mean of what they say, against a slow one over the whole vocabulary."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
import torch
from conftest import collector, hf, traces
from test_data import data
from test_rounds import Losses, fit
from test_samples import top

from ekd.data.mix import Stores
from ekd.data.teachers import Mean, mean_trace
from ekd.models.load import load_model
from ekd.models.rows import rows_where
from ekd.store.invariants import check
from ekd.store.store import Store
from ekd.types import Trace


def read(path, model: str, count: int = 6, **changes) -> Store:
    """A store of the dataset's solutions, read by a teacher."""
    made = collector(teacher=hf(model=model, mode="score", **changes), store=str(path))
    made.collect("train", count)
    return made.open()


def dense(trace: Trace, *models: str) -> torch.Tensor:
    """(n, V) the mean distribution."""
    ids = torch.tensor([[*trace.prompt_ids.tolist(), *trace.response_ids.tolist()]])
    with torch.no_grad():
        rows = [load_model(m).eval()(ids).logits[0, len(trace.prompt_ids) - 1 : -1].double() for m in models]
    return torch.stack([row.softmax(-1) for row in rows]).mean(0)


@pytest.mark.parametrize("mass", [0.6, 1.0])
def test_the_mean_of_two_teachers_is_the_mean_of_their_distributions(tmp_path, mass):
    kept = {"mass": mass, "max_k": 272}
    stores = [read(tmp_path / name, name, count, **kept) for name, count in (("tiny:1", 6), ("tiny:2", 5))]
    together = Mean(stores)
    assert len(together.keys()) == 5
    keys = together.keys()
    for key in keys:
        trace = together[key]
        check(trace, 272, 0)
        assert trace.valid.all()
        p = dense(trace, "tiny:1", "tiny:2")
        row = np.repeat(np.arange(len(trace.counts)), trace.counts)
        np.testing.assert_allclose(np.exp(trace.logprobs), p[row, trace.ids.astype(np.int64)], rtol=0.02, atol=1e-5)
        exact = -(p * p.log()).sum(-1).numpy()
        assert (trace.entropy < exact + 0.01).all()
        if mass == 1.0:
            np.testing.assert_allclose(trace.entropy, exact, atol=0.01)
        else:
            assert trace.log_tail.max() > np.log(0.1)


def test_a_row_that_one_teacher_does_not_know_is_the_other_s(tmp_path):
    one, two = (read(tmp_path / name, name, 1) for name in ("tiny:1", "tiny:2"))
    (key,) = one.keys()
    known, other = one[key], two[key]
    lost = other.valid.copy()
    lost[:3] = False
    row = np.repeat(np.arange(len(lost)), other.counts)
    first = np.r_[True, row[1:] != row[:-1]]
    keep = lost[row] | first
    bare = other._replace(
        valid=lost, counts=np.where(lost, other.counts, 1), ids=other.ids[keep],
        logprobs=np.where(lost[row], other.logprobs, 0)[keep], log_tail=np.where(lost, other.log_tail, -np.inf),
        entropy=np.where(lost, other.entropy, 0),
    )  # fmt: skip
    made, whole = mean_trace([known, bare], drawn=False), mean_trace([known, other], drawn=False)
    n = int(known.counts[:3].sum())
    assert made.valid.all() and made.counts[:3].tolist() == known.counts[:3].tolist()
    ours, theirs = (dict(zip(zip(row, t.ids[:n], strict=False), t.logprobs[:n], strict=False)) for t in (made, known))
    assert ours == pytest.approx(theirs, abs=1e-6)  # ids of one probability may stand in any order
    np.testing.assert_allclose(made.entropy[:3], known.entropy[:3], atol=1e-6)
    at = int(made.counts[:3].sum()), int(whole.counts[:3].sum())
    assert np.array_equal(made.logprobs[at[0] :], whole.logprobs[at[1] :])
    neither = mean_trace([bare, bare], drawn=False)
    check(neither, 272, 0)
    assert neither.valid.tolist() == lost.tolist()


def alone(trace: Trace, r: int) -> dict[int, float]:
    """What a row names, by id."""
    here = slice(int(trace.counts[:r].sum()), int(trace.counts[: r + 1].sum()))
    return dict(zip(trace.ids[here].tolist(), np.exp(trace.logprobs[here].astype(float)).tolist(), strict=True))


def entropy(p: list[float]) -> float:
    return -sum(x * math.log(x) for x in p if x > 1e-12)


def agreement(*rows: dict[int, float]) -> float:
    """The slow one: on the ids that all name and the rest."""
    ids = set(rows[0]).intersection(*rows[1:])
    parts = [[*(row[i] for i in ids), 1 - sum(row[i] for i in ids)] for row in rows]
    mixed = [sum(column) / len(rows) for column in zip(*parts, strict=True)]
    return 1 - (entropy(mixed) - sum(map(entropy, parts)) / len(rows)) / math.log(len(rows))


@pytest.mark.parametrize("mass", [0.6, 1.0])
def test_agreement_is_what_the_divergence_leaves(mass):
    teachers = ["tiny:1", "tiny:2", "tiny:3"]
    kept = {"mode": "score", "mass": mass, "max_k": 272}
    read = [sorted(traces(2, teacher=hf(model=name, **kept)), key=lambda t: t.problem_id) for name in teachers]
    for same in zip(*read, strict=True):
        made = mean_trace(same, drawn=False)
        want = [agreement(*(alone(t, r) for t in same)) for r in range(len(made.counts))]
        np.testing.assert_allclose(made.agreement, want, atol=1e-5)
        assert 0 < made.agreement.min() < made.agreement.max() < 1
        np.testing.assert_allclose(mean_trace([same[0], same[0]], drawn=False).agreement, 1, atol=1e-6)
        assert mean_trace(same, drawn=True).agreement is None
        if mass == 1.0:
            p = torch.stack([dense(same[0], name) for name in teachers])
            apart = (p * (p / p.mean(0)).log()).sum(-1).mean(0) / math.log(3)
            np.testing.assert_allclose(made.agreement, 1 - apart.numpy(), atol=1e-3)


def test_agreement_at_its_ends():
    """Each sure of another token: none. One knows the row alone: nobody contradicts."""
    made = traces(1)[0]._replace(response_ids=np.array([97], np.int32), finish="length")
    three = [sure(made, at) for at in range(3)]
    np.testing.assert_allclose(mean_trace(three, drawn=False).agreement, [0], atol=1e-6)
    np.testing.assert_allclose(mean_trace(three[:1] * 2 + three[1:], drawn=False).agreement, [0.25], atol=1e-6)
    unknown = three[1]._replace(
        valid=np.array([False]), counts=np.array([1]), ids=np.array([97]), logprobs=np.zeros(1, np.float32),
        log_tail=np.array([-np.inf]),
    )  # fmt: skip
    assert mean_trace([three[0], unknown], drawn=False).agreement.tolist() == [1.0]


def sure(trace: Trace, at: int) -> Trace:
    """One row of three ids, all of whose mass is on one."""
    logprobs = np.full(3, -60, np.float32)
    logprobs[at] = 0
    row = {"counts": np.array([3]), "ids": np.array([97, 98, 99]), "logprobs": logprobs, "valid": np.array([True])}
    return trace._replace(**row, log_tail=np.array([-np.inf]), entropy=np.zeros(1, np.float32))


def test_a_student_learns_from_the_mean_and_goes_on_with_it(tmp_path):
    paths = [str(read(tmp_path / name, name).path) for name in ("tiny:1", "tiny:2")]
    losses = Losses()
    source = Stores(paths=paths, weights=None, mean=True)
    fit(tmp_path / "run", source, steps=3, callbacks=[losses])
    assert len(losses.seen) == 3 and not (tmp_path / "run" / "rounds").exists()


def test_every_row_says_whose_it_is(tmp_path):
    """Also once rows are left out; several that are read as one have all their names."""
    stores = [read(tmp_path / name, name, 4) for name in ("tiny:1", "tiny:2")]
    paths = [str(store.path) for store in stores]
    served = data(source=Stores(paths=paths, weights=[1, 2]), train_problems=4)
    served.prepare_data()
    served.setup("fit")
    said = {
        (store.teacher, tuple(t.response_ids)): t.entropy
        for store in stores
        for t in map(store.__getitem__, store.keys())
    }
    seen = set()
    for batch in islice(iter(served.train_dataloader()), 8):
        for at, name in enumerate(batch.rows.teachers):
            rows = rows_where(batch.rows, batch.rows.sequence == at)
            assert rows.teachers == batch.rows.teachers
            np.testing.assert_array_equal(rows.teacher_entropy, said[name, tuple(rows.target.tolist())])
            seen.add(name)
    assert seen == {"tiny:1", "tiny:2"} and len(said) == 8
    together = Mean(stores)
    assert together[together.keys()[0]].teacher == "tiny:1 + tiny:2"


def test_what_has_no_mean_is_said(tmp_path):
    one, other = read(tmp_path / "one", "tiny:1", 2), read(tmp_path / "other", "tiny:2", 2)
    for change, why in (
        ({"weights": [1, 2]}, "source.weights=null"),
        ({"paths": [str(one.path)]}, "two stores or more"),
    ):
        with pytest.raises(ValueError, match=why):
            Stores(**({"paths": [str(one.path), str(other.path)], "weights": None, "mean": True} | change))
    with pytest.raises(ValueError, match="set data/samples=null"):
        Stores(paths=[str(one.path)], weights=None).check(data(samples=top()))
    source = Stores(paths=[str(one.path), str(other.path)], weights=None, mean=True)
    with pytest.raises(ValueError, match=r"set student.temperature=1, not 2.0"):
        source.check(data(source=source, temperature=2.0))
    made = collector(teacher=hf(model="tiny:2"), store=str(tmp_path / "own"))  # writes texts of its own
    made.collect("train", 2)
    with pytest.raises(ValueError, match="have no text in common"):
        Mean([one, made.open()])
