"""Several teachers that read one text: the mean of what they say, against a slow one over the whole vocabulary."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from conftest import collector, hf
from test_data import data
from test_rounds import Losses, fit

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
    source = Stores(paths=[str(one.path), str(other.path)], weights=None, mean=True)
    with pytest.raises(ValueError, match=r"set student.temperature=1, not 2.0"):
        source.check(data(source=source, temperature=2.0))
    made = collector(teacher=hf(model="tiny:2"), store=str(tmp_path / "own"))  # writes texts of its own
    made.collect("train", 2)
    with pytest.raises(ValueError, match="have no text in common"):
        Mean([one, made.open()])
