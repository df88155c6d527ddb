"""The Hugging Face teacher: rows are the distribution that predicted their token, however they were computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import collector, hf, traces

from ekd.models.load import load_model
from ekd.models.prompt import Prompt
from ekd.teacher.hf import WINDOW
from ekd.teacher.rows import counted


def dense(trace, model_name="tiny:1") -> torch.Tensor:
    """(n, V) log p of every response row, by one plain forward pass of the whole text."""
    text = torch.tensor([[*trace.prompt_ids, *trace.response_ids]])
    with torch.no_grad():
        logits = load_model(model_name).eval()(text).logits[0].double()
    start = len(trace.prompt_ids) - 1
    return logits[start : start + len(trace.response_ids)].log_softmax(-1)


@pytest.mark.parametrize("mode", ["generate", "score"])
@pytest.mark.parametrize("shots", [0, 1])
def test_rows_are_those_of_a_plain_forward_pass(mode, shots):
    prompt = Prompt(system="", instruction="", shots=shots, thinking=None)
    for trace in traces(5, teacher=hf(mode=mode, batch_size=3), prompt=prompt):
        truth = dense(trace)
        starts = np.cumsum(trace.counts) - trace.counts
        assert (trace.ids[starts] == trace.response_ids).all()  # entry 0 is the token that came next
        rows = np.repeat(np.arange(len(trace.counts)), trace.counts)
        torch.testing.assert_close(torch.tensor(trace.logprobs).double(), truth[rows, trace.ids], atol=2e-5, rtol=0)
        p = truth.exp()
        torch.testing.assert_close(torch.tensor(trace.entropy).double(), -(p * truth).sum(-1), atol=2e-5, rtol=0)
        known = np.add.reduceat(np.exp(trace.logprobs.astype(float)), starts)
        np.testing.assert_allclose(known + np.exp(trace.log_tail.astype(float)), 1, atol=2e-6)


def test_a_row_holds_the_asked_mass_or_max_k_ids_and_no_id_twice():
    for trace in traces(4, teacher=hf(mass=0.9, max_k=8)):
        for row, ids in enumerate(np.split(trace.ids, np.cumsum(trace.counts)[:-1])):
            assert len(set(ids)) == len(ids)
            enough = np.exp(trace.log_tail[row]) <= 0.1 + 1e-6
            assert enough or len(ids) >= 8


def test_mass_one_and_max_k_of_the_vocabulary_leaves_no_tail():
    trace = traces(1, teacher=hf(mass=1.0, max_k=272))[0]
    assert (trace.counts == 272).all() and np.isneginf(trace.log_tail).all()


def test_recorded_normalisers_are_those_of_the_softmax_at_that_temperature():
    trace = traces(1, teacher=hf(temperatures=[2.0, 0.5]))[0]
    expected = torch.stack([(dense(trace) / t).logsumexp(-1) for t in (2.0, 0.5)], -1)
    torch.testing.assert_close(torch.tensor(trace.log_norm).double(), expected, atol=2e-5, rtol=0)


def test_sampling_depends_on_the_seed_of_a_problem_and_not_on_its_batch():
    by_key = [{t.key: t.response_ids.tolist() for t in traces(6, teacher=hf(batch_size=b))} for b in (1, 4, 6)]
    assert by_key[0] == by_key[1] == by_key[2]
    other = collector(seed=1)
    texts = [t.response_ids.tolist() for t in other.teacher.trace(other.requests("train", 6))]
    assert texts != list(by_key[0].values())


def test_samples_of_one_problem_differ_and_greedy_ones_do_not():
    maker = collector(samples=3)
    assert len({tuple(t.response_ids) for t in maker.teacher.trace(maker.requests("train", 1))}) == 3
    greedy = collector(samples=3, teacher=hf(temperature=0.0))
    assert len({tuple(t.response_ids) for t in greedy.teacher.trace(greedy.requests("train", 1))}) == 1


def test_top_p_never_takes_a_token_outside_the_nucleus():
    for trace in traces(4, teacher=hf(top_p=0.5, max_new_tokens=20)):
        p = dense(trace).exp()
        above = torch.where(p > p.gather(1, torch.tensor(trace.response_ids).long()[:, None]) + 1e-6, p, 0.0).sum(1)
        assert (above < 0.5 + 1e-4).all()


def test_a_hub_models_own_generation_settings_change_nothing(monkeypatch):
    plain = [t.response_ids.tolist() for t in traces(2)]

    def with_settings(*args, **kwargs):
        model = load_model(*args, **kwargs)
        model.generation_config.repetition_penalty = 5.0  # Qwen2.5 ships 1.05
        model.generation_config.top_k = 1
        return model

    monkeypatch.setattr("ekd.models.spec.load_model", with_settings)
    assert [t.response_ids.tolist() for t in traces(2)] == plain


def test_scoring_a_generated_text_gives_the_rows_it_was_generated_with():
    made = traces(4)
    maker = collector()
    requests = {r.key: r for r in maker.requests("train", 4)}
    again = [requests[t.key]._replace(response_ids=t.response_ids.tolist()) for t in made]
    scored = {t.key: t for t in hf(mode="score").trace(again)}
    for trace in made:
        other = scored[trace.key]
        assert (other.ids[: trace.counts[0]] == trace.ids[: trace.counts[0]]).all()
        np.testing.assert_allclose(other.entropy, trace.entropy, atol=2e-5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mode": "guess"}, "generate or score"),
        ({"mass": 1.5}, "0 < mass <= 1"),
        ({"top_p": 0}, "0 < top_p <= 1"),
        ({"temperature": -1}, "0 (greedy) or more"),
        ({"max_k": 0}, "1 or more, not 0"),
        ({"draws": -1}, "0 (no drawing) to 65,535, not -1"),
        ({"draws": 9, "temperatures": [2.0]}, "teacher.draws=0 for other temperatures"),
    ],
)
def test_wrong_values_are_refused_in_a_sentence(wrong, said):
    with pytest.raises(ValueError, match="teacher") as error:
        hf(**wrong)
    assert said in str(error.value)


def counts(trace, draws) -> np.ndarray:
    return np.rint(np.exp(trace.logprobs.astype(float)) * draws)


@pytest.mark.parametrize("mode", ["generate", "score"])
def test_drawn_rows_count_their_draws_name_the_next_token_and_know_the_exact_entropy(mode):
    for trace in traces(4, teacher=hf(mode=mode, draws=20)):
        starts = np.cumsum(trace.counts) - trace.counts
        assert (trace.ids[starts] == trace.response_ids).all()
        np.testing.assert_allclose(np.exp(trace.logprobs.astype(float)) * 20, counts(trace, 20), atol=1e-4)
        assert (np.add.reduceat(counts(trace, 20), starts) == 20).all() and np.isneginf(trace.log_tail).all()
        later = np.delete(np.arange(len(trace.ids)), starts)
        assert (counts(trace, 20)[later] > 0).all()
        truth = dense(trace)
        torch.testing.assert_close(
            torch.tensor(trace.entropy).double(), -(truth.exp() * truth).sum(-1), atol=2e-5, rtol=0
        )
    assert np.isneginf(trace.logprobs[starts]).any()  # a next token that was never drawn is still entry 0


def test_drawn_rows_pass_through_a_store_unchanged():
    maker = collector(teacher=hf(draws=64))
    keys = maker.collect("train", 6).keys
    store = maker.open()
    assert store.layout.draws == 64 and "max_k" not in store.origin["teacher"]
    made = {t.key: t for t in maker.teacher.trace(maker.requests("train", 6))}
    for key in keys:
        back, trace = store[key], made[key]
        assert back.ids.tolist() == trace.ids.tolist() and back.response_ids.tolist() == trace.response_ids.tolist()
        assert counts(back, 64).tolist() == counts(trace, 64).tolist() and np.isneginf(back.log_tail).all()
        np.testing.assert_allclose(back.entropy, trace.entropy, rtol=1e-3, atol=1e-3)


def test_draws_depend_on_the_seed_of_a_problem_and_not_on_its_batch_or_mode():
    made = {b: {t.key: t for t in traces(6, teacher=hf(draws=16, batch_size=b))} for b in (1, 4)}
    maker = collector()
    texts = [
        r._replace(response_ids=made[1][r.key].response_ids.tolist()) for r in reversed(maker.requests("train", 6))
    ]
    scored = {t.key: t for t in hf(mode="score", draws=16).trace(texts)}
    for key, trace in made[1].items():
        for other in (made[4][key], scored[key]):
            assert other.ids.tolist() == trace.ids.tolist() and other.logprobs.tolist() == trace.logprobs.tolist()


def test_counts_are_the_distribution_on_average():
    """Unbiased: for each id, the mean of count / N over many rows is within five standard errors of p."""
    random, vocab, draws, rows = np.random.default_rng(0), 40, 8, 20_000
    z = torch.tensor(random.normal(0, 3, vocab), dtype=torch.float32)
    p = z.double().softmax(0).numpy()
    for target in (int(p.argmax()), int(p.argmin())):  # also where the next token is almost never drawn
        many = counted(
            z.expand(rows, vocab), torch.full((rows,), target), np.random.default_rng(target).random((rows, draws))
        )
        share = torch.zeros(rows, vocab).scatter_add_(1, many.ids, many.logprobs.exp() * many.kept).double().numpy()
        error = np.abs(share.mean(0) - p) / np.sqrt(p * (1 - p) / (rows * draws))
        assert error.max() < 5 and error.mean() < 1.2  # the mean of |N(0, 1)| is 0.8


def test_a_stream_is_read_no_further_ahead_than_a_window():
    maker, read = collector(teacher=hf(mode="score", batch_size=1)), 0
    some = maker.requests("train", 24)

    def stream():
        nonlocal read
        for n in range(3 * WINDOW):
            read += 1
            yield some[n % len(some)]._replace(key=f"{n:032x}")

    made = []
    for done, trace in enumerate(maker.teacher.trace(stream())):
        assert read <= (done // WINDOW + 1) * WINDOW  # of a batch of one, a window is so many requests
        made.append(trace.key)
    assert sorted(made) == [f"{n:032x}" for n in range(3 * WINDOW)]


def test_a_teacher_that_is_closed_by_an_error_keeps_no_model():
    with pytest.raises(KeyError), hf().open() as warm:
        raise KeyError
    assert warm.loaded is None
