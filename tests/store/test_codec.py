import numpy as np
import pytest
from fake_traces import fake_trace
from hypothesis import given, settings
from hypothesis import strategies as st

from ekd.store.codec import Layout, decode, encode, from_code, to_code
from ekd.store.squeeze import PlaneReader, Writer, unvarints, varints
from ekd.types import Trace


def round_trip(trace: Trace, layout: Layout) -> Trace:
    fields = decode(encode(trace, layout), len(trace.response_ids), len(trace.ids), layout)
    return trace._replace(**fields)


def kl(a: Trace, b: Trace) -> np.ndarray:
    """Of each row, on its entries and its tail."""
    first = np.cumsum(a.counts) - a.counts
    with np.errstate(invalid="ignore"):
        entries = np.exp(a.logprobs.astype(float)) * (a.logprobs.astype(float) - b.logprobs)
        tails = np.exp(a.log_tail.astype(float)) * (a.log_tail.astype(float) - b.log_tail)
    return np.add.reduceat(np.nan_to_num(entries), first) + np.nan_to_num(tails)


shapes = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10**6),
        "rows": st.integers(1, 40),
        "vocab": st.sampled_from([2, 50, 257, 3000]),
        "most": st.sampled_from([1, 2, 8, 64]),
        "temperatures": st.sampled_from([(), (2.0,), (0.5, 4.0)]),
        "unmatched": st.sampled_from([0.0, 0.3, 1.0]),
        "scale": st.sampled_from([0.2, 4.0, 30.0]),
    }
)


@settings(deadline=None, max_examples=60)
@given(shape=shapes, coarse=st.sampled_from([1, 4, 16, 64]))
def test_what_is_exact_stays_exact_and_the_rest_is_close(shape, coarse):
    trace = fake_trace(**shape)
    layout = Layout(shape["vocab"], temperatures=len(shape["temperatures"]), coarse=coarse)
    back = round_trip(trace, layout)
    for name in ("response_ids", "counts", "ids", "valid"):
        assert np.array_equal(getattr(trace, name), getattr(back, name)), name
        assert getattr(trace, name).dtype == getattr(back, name).dtype
    mass = np.add.reduceat(np.exp(back.logprobs.astype(float)), np.cumsum(back.counts) - back.counts)
    assert np.allclose(mass + np.exp(back.log_tail), 1, atol=2e-6)
    assert np.abs(trace.log_norm - back.log_norm).max(initial=0) <= 1.3e-4
    assert (np.abs(trace.entropy - back.entropy) <= 1.1e-3 + 2.1e-3 * trace.entropy).all()
    assert np.abs(kl(trace, back)).max() < 2e-7 * coarse + 1e-6


@settings(deadline=None, max_examples=40)
@given(shape=shapes, coarse=st.sampled_from([1, 16]))
def test_a_second_round_trip_changes_nothing_more(shape, coarse):
    layout = Layout(shape["vocab"], temperatures=len(shape["temperatures"]), coarse=coarse)
    once = round_trip(fake_trace(**shape), layout)
    twice = round_trip(once, layout)
    assert np.array_equal(once.ids, twice.ids)
    assert np.allclose(np.exp(once.logprobs), np.exp(twice.logprobs), atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), draws=st.sampled_from([1, 50, 63, 64, 1000]), vocab=st.sampled_from([5, 3000]))
def test_drawn_rows_lose_nothing(seed, draws, vocab):
    trace = fake_trace(seed, vocab=vocab, draws=draws)
    back = round_trip(trace, Layout(vocab, draws=draws))
    assert np.array_equal(trace.ids, back.ids)
    assert np.array_equal(np.rint(np.exp(trace.logprobs) * draws), np.rint(np.exp(back.logprobs) * draws))
    assert np.isneginf(back.log_tail).all()
    assert np.allclose(trace.entropy, back.entropy, rtol=1e-3)


@pytest.mark.parametrize("vocab", [151_936, 262_144, 262_145, 20_000_000])
def test_the_largest_id_of_any_vocabulary_is_kept(vocab):
    top = np.array([vocab - 1, 131_072, 1], np.int32)
    logs = np.log(np.array([0.5, 0.25, 0.25], np.float32))
    back = round_trip(row(top, logs), Layout(vocab))
    assert back.ids.tolist() == top.tolist()


def row(ids: np.ndarray, logprobs: np.ndarray, log_tail: float = -np.inf, entropy: float = 1.0) -> Trace:
    return Trace(
        key="k",
        problem_id="p",
        sample=0,
        finish="stop",
        prompt_ids=np.array([0], np.int32),
        response_ids=ids[:1],
        counts=np.array([len(ids)], np.int32),
        ids=ids,
        logprobs=np.asarray(logprobs, np.float32),
        log_tail=np.array([log_tail], np.float32),
        entropy=np.array([entropy], np.float32),
        exact=True,
        valid=np.ones(1, bool),
        log_norm=np.zeros((1, 0), np.float32),
    )


@pytest.mark.parametrize("below", [1.0, 16.0, 17.0, 40.0, 80.0])
def test_a_very_improbable_target_keeps_its_logprob(below):
    trace = row(np.array([7, 3], np.int32), np.array([-below, np.log1p(-np.exp(-below))]))
    assert round_trip(trace, Layout(100)).logprobs[0] == pytest.approx(-below, abs=1 / 128)
    assert round_trip(trace, Layout(100, coarse=1)).logprobs[0] == pytest.approx(-below, abs=1 / 1024)


@pytest.mark.parametrize("tail", [1e-3, 1e-6, 1e-9])
def test_a_nearly_certain_token_is_kept_far_better_than_a_step(tail):
    entropy = tail * (1 - np.log(tail) + 2)  # the tail spread over e^2 ids
    trace = row(np.array([7], np.int32), np.array([np.log1p(-tail)]), np.log(tail), entropy)
    back = round_trip(trace, Layout(100))
    assert back.logprobs[0] == pytest.approx(-tail, rel=1e-2)
    assert back.entropy[0] == pytest.approx(entropy, rel=1e-2)


def test_a_target_without_mass_and_a_row_of_the_whole_vocabulary():
    ids = np.array([4, 0, 1, 2, 3], np.int32)
    with np.errstate(divide="ignore"):
        trace = row(ids, np.log(np.array([0.0, 0.5, 0.5, 0.0, 0.0])), entropy=np.log(2))
    back = round_trip(trace, Layout(5))
    assert np.isneginf(back.logprobs[[0, 3, 4]]).all()
    assert back.logprobs[1] == pytest.approx(np.log(0.5))


def test_a_trace_without_a_response():
    trace = fake_trace(1, rows=0)
    assert len(round_trip(trace, Layout(1000)).ids) == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ids": np.array([7, 100], np.int32)}, "id 100 is outside the vocabulary of 100"),
        ({"ids": np.array([7, -1], np.int32)}, "id -1 is outside"),
        ({"response_ids": np.array([8], np.int32)}, "begins with id 7"),
        ({"ids": np.array([7, 7], np.int32)}, "names an id twice"),
        ({"counts": np.array([0], np.int32)}, "no entry"),
        ({"counts": np.array([3], np.int32)}, "count 3 entries"),
        ({"logprobs": np.log(np.array([0.5, 0.6], np.float32))}, "mass of 1.1"),
        ({"logprobs": np.array([np.nan, -1], np.float32)}, "nan"),
        ({"logprobs": np.array([0.5, -9], np.float32)}, "at most 0"),
        ({"entropy": np.array([-1], np.float32)}, "entropy is negative"),
        ({"valid": np.ones(2, bool)}, "exactly one row"),
        ({"log_norm": np.zeros((1, 2), np.float32)}, "temperatures"),
    ],
)
def test_an_unsound_trace_is_refused_by_name(change, says):
    good = row(np.array([7, 3], np.int32), np.log(np.array([0.5, 0.5])))
    with pytest.raises(ValueError, match="trace k ") as caught:
        encode(good._replace(**change), Layout(100))
    assert says in str(caught.value)


def test_entries_that_do_not_fall_are_refused():
    bad = row(np.array([7, 3, 4], np.int32), np.log(np.array([0.5, 0.2, 0.3])))
    with pytest.raises(ValueError, match="falling"):
        encode(bad, Layout(100))


@settings(deadline=None, max_examples=60)
@given(below=st.floats(0, 300), coarse=st.sampled_from([1, 2, 16, 64]))
def test_the_rounding_error_is_half_a_step(below, coarse):
    step = min(np.exp(below / 2), coarse) / 1024
    back = float(from_code(to_code(np.array([below]), coarse), coarse)[0])
    assert abs(back - below) <= 0.51 * step + 1e-9 * below + (0.002 * step if coarse > 1 else 0)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 2**24 - 1), max_size=400))
def test_integers_and_ids_come_back(values):
    out = Writer()
    out.integers(np.array(values, np.int64), 3)
    out.ids(np.array(values * 3, np.int64), 3)
    take = PlaneReader(out.bytes())
    assert take.integers(len(values), 3).tolist() == values
    assert take.ids(3 * len(values), 3).tolist() == values * 3


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 2**40)))
def test_varints_come_back(values):
    packed = varints(values)
    back, at = unvarints(memoryview(packed + b"\xff"))
    assert (list(back), at) == (values, len(packed))


def test_a_number_that_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="16777216 does not fit in 3 bytes"):
        Writer().integers(np.array([1 << 24]), 3)
