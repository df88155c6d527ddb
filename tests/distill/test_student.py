"""The invariants of the step: the loss is what the formulas say, and nothing around a row changes it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from conftest import hf, traces

from ekd.data.collate import Collate
from ekd.distill.hard_label import HardLabel
from ekd.distill.make_student import make_student
from ekd.distill.student import Student
from ekd.loss.cross_entropy import CrossEntropy
from ekd.loss.forward_kl import ForwardKL
from ekd.loss.reverse_kl import ReverseKL
from ekd.models.head import head_of, stats
from ekd.models.rows import at_temperature, kl, matched
from ekd.selector.adaptive import Adaptive
from ekd.selector.bucket import Bucket
from ekd.selector.random import Random
from ekd.selector.topk import TopK
from ekd.selector.vanilla import Vanilla
from ekd.signal.student_entropy import StudentEntropy
from ekd.signal.teacher_entropy import TeacherEntropy
from ekd.signal.teacher_uncertainty import TeacherUncertainty

SELECTORS = {
    "vanilla": Vanilla,
    "topk": partial(TopK, k_percent=20, scope="sequence"),
    "bucket": partial(Bucket, lower=70, upper=80, scope="sequence"),
    "random": partial(Random, k_percent=20, seed=0, scope="sequence"),
}


def student(**changes) -> Student:
    values = {
        "model": "tiny", "layers": "all", "dtype": "float32", "attention": "sdpa", "quantize": None, "lora": None,
        "gradient_checkpointing": False, "compile": False, "start": None, "trust_remote_code": False,
        "signal": TeacherEntropy(), "selector": Vanilla(), "loss": ForwardKL(), "gate": None,
        "temperature": 1.0, "alpha_ce": 0.0, "tail": "bucket", "unmatched": "end", "head_mb": 1.0,
        "optimizer": partial(torch.optim.AdamW, lr=1e-3), "schedule": "constant", "warmup": 0.0,
        "supervised_tokens": None, "grad_limit": 1e4,
    }  # fmt: skip
    made = make_student(**(values | changes))
    made.configure_model()
    made.log = lambda *args, **kwargs: None  # no trainer here
    return made


def price(made: Student, batch) -> torch.Tensor:
    """The step's mean price."""
    total = made.training_step(batch, 0)
    return total / made.tally[0]


def dense_kl(batch, teacher="tiny:1", name="tiny") -> torch.Tensor:
    """(R,) exact KL over the whole vocabulary, from two plain forward passes."""
    p, q = (
        student(model=m).model(batch.input_ids).logits[batch.mask].double().log_softmax(-1) for m in (teacher, name)
    )
    return (p.exp() * (p - q)).sum(-1)


def test_a_student_equal_to_its_teacher_has_no_loss_and_the_same_entropy_on_every_row():
    batch = Collate(272)(traces(4, teacher=hf(mass=1.0, max_k=272)))
    made = student(model="tiny:1")
    hidden = made.hidden(batch)
    seen = stats(hidden, head_of(made.model), batch.rows.teacher_ids, budget_mb=1)
    assert kl(batch.rows.teacher_logprobs, seen.log_q).abs().max() < 1e-5
    torch.testing.assert_close(seen.entropy, batch.rows.teacher_entropy, atol=1e-4, rtol=0)
    loss = price(made, batch)
    loss.backward()
    assert loss.abs() < 1e-5
    assert max(p.grad.abs().max() for p in made.model.parameters()) < 1e-4


def test_with_every_id_known_the_loss_and_its_gradients_are_the_dense_kl():
    batch = Collate(272)(traces(4, teacher=hf(mass=1.0, max_k=272)))
    made, plain = student(), student()
    loss = price(made, batch)
    loss.backward()
    p = student(model="tiny:1").model(batch.input_ids).logits[batch.mask].log_softmax(-1).detach()
    q = plain.model(batch.input_ids).logits[batch.mask].log_softmax(-1)
    expected = (p.exp() * (p - q)).sum(-1).mean()
    expected.backward()
    torch.testing.assert_close(loss.float(), expected, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(made.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4)


def test_fewer_ids_give_a_lower_bound_that_closes_as_they_grow():
    losses = [price(student(), Collate(272)(traces(4, teacher=hf(mass=1.0, max_k=k)))).item() for k in (1, 8, 64, 272)]
    assert 0 < losses[0] < losses[1] < losses[2] <= losses[3] + 1e-6


def left_padded(batch, by: int):
    """The same batch with `by` more padding positions on the left."""

    def pad(tensor, value):
        return torch.nn.functional.pad(tensor, (by, 0), value=value)

    return batch._replace(
        input_ids=pad(batch.input_ids, 257),
        attention_mask=pad(batch.attention_mask, 0),
        position_ids=pad(batch.position_ids, 0),
        target_ids=pad(batch.target_ids, 0),
        mask=pad(batch.mask, False),
    )


def test_padding_left_right_or_none_gives_the_same_loss():
    made = traces(4)
    collate, model = Collate(272), student()
    right = model.training_step(collate(made), 0)
    left = model.training_step(left_padded(collate(made), 9), 0)
    alone = sum(model.training_step(collate([t]), 0) for t in made)
    torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(alone, right, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("signal", [TeacherEntropy(), StudentEntropy()])
@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_with_both_signals_prices_exactly_its_rows(name, signal):
    batch = Collate(272)(traces(6, teacher=hf(mass=1.0, max_k=272, max_new_tokens=30)))
    made = student(selector=SELECTORS[name](), signal=signal)
    hidden = made.hidden(batch)
    score = (
        stats(hidden, head_of(made.model), batch.rows.teacher_ids, budget_mb=1).entropy
        if signal.needs_student
        else batch.rows.teacher_entropy
    )
    weight = SELECTORS[name]()(score.detach(), batch.rows.sequence)
    assert 0 < (weight > 0).sum() <= len(weight)
    expected = (dense_kl(batch) * weight).sum() / weight.sum()
    torch.testing.assert_close(price(made, batch).double(), expected, atol=1e-4, rtol=1e-4)


def test_the_bucket_keeps_exactly_the_rows_between_its_percentiles():
    batch = Collate(272)(traces(5, teacher=hf(max_new_tokens=60)))
    made = student(selector=Bucket(lower=40, upper=60, scope="sequence"))
    weight, _ = made.weigh(made.hidden(batch), head_of(made.model), batch.rows)
    for s in range(5):
        entropy = batch.rows.teacher_entropy[batch.rows.sequence == s].double()
        low, high = torch.quantile(entropy, torch.tensor([0.4, 0.6], dtype=torch.float64))
        assert weight[batch.rows.sequence == s].bool().tolist() == ((low <= entropy) & (entropy <= high)).tolist()


def test_the_extra_head_pass_happens_only_for_a_signal_that_asks(monkeypatch):
    calls = []
    monkeypatch.setattr("ekd.models.reader.stats", lambda *a, **k: calls.append(1) or stats(*a, **k))
    batch = Collate(272)(traces(2))
    student(signal=TeacherEntropy()).training_step(batch, 0)
    assert not calls
    student(signal=StudentEntropy()).training_step(batch, 0)
    assert len(calls) == 1


def unmatched(batch, where: torch.Tensor):
    """The batch with these rows turned into unmatched rows."""
    rows = batch.rows
    ids, logprobs = rows.teacher_ids.clone(), rows.teacher_logprobs.clone()
    ids[where, 1:] = -1
    logprobs[where] = float("-inf")
    logprobs[where, 0] = 0.0
    entropy = rows.teacher_entropy.masked_fill(where, 0.0)
    return batch._replace(
        rows=rows._replace(valid=~where, teacher_ids=ids, teacher_logprobs=logprobs, teacher_entropy=entropy)
    )


@pytest.mark.parametrize("loss", [ForwardKL(), ReverseKL()])
@pytest.mark.parametrize(("kept", "count"), [("end", 3), ("all", 5), ("none", 0)])
def test_unmatched_rows_cost_cross_entropy_whatever_the_loss_and_no_percentile_sees_them(loss, kept, count):
    batch = Collate(272)(traces(3, teacher=hf(mode="score")))
    where = batch.rows.end.clone()
    where[2], where[5] = True, True
    hardened = unmatched(batch, where)
    made = student(loss=loss, unmatched=kept, selector=TopK(k_percent=20, scope="sequence"))
    hidden = made.hidden(hardened)
    weight, _ = made.weigh(hidden, head_of(made.model), hardened.rows)
    assert int((weight[where] > 0).sum()) == count
    soft = matched(hardened.rows)
    chosen = TopK(k_percent=20, scope="sequence")(soft.teacher_entropy, soft.sequence)
    assert weight[~where].tolist() == chosen.tolist()
    total = made.training_step(hardened, 0)
    soft_total = student(loss=loss, unmatched="none", selector=TopK(k_percent=20, scope="sequence")).training_step(
        hardened, 0
    )
    log_q = made.model(hardened.input_ids).logits[hardened.mask].log_softmax(-1)
    ce = -log_q.gather(1, hardened.rows.target[:, None])[:, 0]
    torch.testing.assert_close(total - soft_total, (ce * weight * where).sum(), atol=1e-3, rtol=1e-5)


def test_cross_entropy_is_the_next_tokens_and_alpha_mixes_it_in():
    batch = Collate(272)(traces(3))
    logits = student().model(batch.input_ids).logits[batch.mask]
    ce = torch.nn.functional.cross_entropy(logits, batch.rows.target)
    torch.testing.assert_close(price(student(loss=CrossEntropy()), batch).float(), ce, atol=1e-5, rtol=1e-5)
    pure, mixed = price(student(), batch), price(student(alpha_ce=0.25), batch)
    torch.testing.assert_close(mixed, 0.75 * pure + 0.25 * ce, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("hard", ["others", "chosen"])
def test_a_gate_gives_each_row_one_of_two_prices(hard):
    batch = Collate(272)(traces(3, teacher=hf(mass=1.0, max_k=272)))
    logits = student().model(batch.input_ids).logits[batch.mask]
    ce = torch.nn.functional.cross_entropy(logits, batch.rows.target, reduction="none")
    expected = []
    for sequence in batch.rows.sequence.unique().tolist():
        here = [r for r in range(len(ce)) if batch.rows.sequence[r] == sequence]
        entropy = batch.rows.teacher_entropy.tolist()
        high = sorted(here, key=lambda r: (-entropy[r], r))[: -(-len(here) // 5)]
        exact = [r for r in here if (r in high) == (hard == "chosen")]
        soft = dense_kl(batch)
        expected += [ce[r] if r in exact else soft[r] for r in here]
    gate = HardLabel(signal=TeacherEntropy(), selector=TopK(k_percent=20, scope="sequence"), hard=hard)
    want = torch.stack([one.double() for one in expected]).mean()
    torch.testing.assert_close(price(student(gate=gate), batch).double(), want, atol=1e-4, rtol=1e-4)
    graded = HardLabel(signal=TeacherUncertainty(), selector=None, hard=hard)
    p = batch.rows.teacher_logprobs[:, 0].exp().double()
    share = 1 - p if hard == "chosen" else p
    want = (share * ce + (1 - share) * dense_kl(batch)).mean()
    torch.testing.assert_close(price(student(gate=graded), batch).double(), want, atol=1e-4, rtol=1e-4)
    seen = HardLabel(signal=StudentEntropy(), selector=Vanilla(), hard="chosen")  # it is asked for what it needs
    torch.testing.assert_close(price(student(gate=seen), batch).double(), ce.mean().double(), atol=1e-4, rtol=1e-4)


def test_a_gate_with_memory_travels_and_one_that_would_learn_is_refused():
    lot = Random(k_percent=20, seed=0, scope="sequence")
    made = student(gate=HardLabel(signal=TeacherEntropy(), selector=lot, hard="others"))
    made.training_step(Collate(272)(traces(2)), 0)
    assert int(made.state_dict()["gate.selector.step"]) == 1
    adaptive = Adaptive(k_percent=50, lowest=10, by=0.1, change=0.1, decay=0.9, warm_up=1, scope="sequence")
    with pytest.raises(ValueError, match=r"gate\.selector=Adaptive.* learns"):
        HardLabel(signal=TeacherEntropy(), selector=adaptive, hard="others")
    with pytest.raises(ValueError, match="both say"):
        student(gate=made.gate, alpha_ce=0.5)


def test_temperature_is_that_of_the_dense_formula():
    collate = Collate(272, norm=0)
    batch = collate(traces(3, teacher=hf(mass=1.0, max_k=272, temperatures=[2.0])))
    made = student(temperature=2.0)
    p, q = (student(model=m).model(batch.input_ids).logits[batch.mask].double() for m in ("tiny:1", "tiny"))
    p, q = (p / 2).log_softmax(-1), (q / 2).log_softmax(-1)
    expected = 4 * (p.exp() * (p - q)).sum(-1).mean()
    torch.testing.assert_close(price(made, batch).double(), expected, atol=1e-4, rtol=1e-4)


def test_at_a_temperature_a_cut_row_still_sums_to_one():
    batch = Collate(272, norm=0)(traces(3, teacher=hf(max_k=8, temperatures=[3.0])))
    total = at_temperature(batch.rows, 3.0).exp().sum(1)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"temperature": 0}, "more than 0, not 0"),
        ({"alpha_ce": 2}, "0 to 1, not 2"),
        ({"unmatched": "some"}, "one of end, all, none"),
        ({"tail": "short"}, "one of bucket, renormalise, truncate"),
        ({"warmup": 5}, "0 to 1, not 5"),
        ({"grad_limit": 0}, "more than 0, or null, not 0"),
    ],
)
def test_wrong_values_are_refused_in_a_sentence(wrong, said):
    with pytest.raises(ValueError, match="student") as error:
        student(**wrong)
    assert said in str(error.value)
