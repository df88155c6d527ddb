"""What cannot work together is refused in a sentence before anything is loaded; all else trains. Nothing in between."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import collector, hf, traces
from hydra import compose, initialize_config_dir
from test_data import data
from test_samples import top
from test_student import student

from ekd.cli.door import build
from ekd.data.collate import Collate
from ekd.distill.compatibility import check_compatibility
from ekd.distill.hard_label import HardLabel
from ekd.loss.forward_kl import ForwardKL
from ekd.loss.reverse_kl import ReverseKL
from ekd.loss.skew_reverse_kl import SkewReverseKL
from ekd.loss.weighted import Weighted
from ekd.models.head import head_of, stats
from ekd.models.rows import kl, kl_of_draws
from ekd.selector.topk import TopK
from ekd.signal.ce_ratio import CERatio
from ekd.signal.soft_or import SoftOr
from ekd.signal.teacher_ce import TeacherCE
from ekd.teacher.wire.rows import Row, wire_trace
from ekd.types import NeedsAgreement, NeedsContrast, NeedsOwnText

CONF = Path(__file__).parents[2] / "conf"
NAMES = {group: sorted(f.stem for f in (CONF / group).glob("*.yaml")) for group in ("signal", "loss")}


def made(group: str, name: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build(compose("train", [f"{group}={name}", "student.model=tiny"])[group])


@pytest.fixture(scope="module")
def signals():
    return {name: made("signal", name) for name in NAMES["signal"]}


@pytest.fixture(scope="module")
def losses():
    return {name: made("loss", name) for name in NAMES["loss"]}


def of(teacher, **changes):
    return data(collector=collector(teacher=teacher), **changes)


@pytest.mark.parametrize("draws", [0, 12])
@pytest.mark.parametrize("name", NAMES["signal"])
def test_every_signal_with_every_loss_trains_or_is_refused(name, draws, signals, losses):
    """A price of 1e6 nats is finite and no price: what a reverse KL makes of a probability of 0 is 1e27."""
    served = of(hf(draws=draws))
    batch = Collate(272)(traces(4, teacher=hf(draws=draws)))
    for loss in losses.values():
        signal = copy.deepcopy(signals[name])  # one of them learns
        learner = student(signal=signal, selector=TopK(k_percent=40, scope="sequence"), loss=loss)
        try:
            check_compatibility(served, learner)
        except ValueError as refusal:
            if isinstance(loss, NeedsOwnText) and "set source=rounds" in str(refusal):
                continue
            if isinstance(signal, NeedsContrast) and "trace with contrast=no_prompt" in str(refusal):
                continue
            if isinstance(signal, NeedsAgreement) and "source.mean=true, of teachers that read" in str(refusal):
                continue
            assert draws and "teacher.draws=12" in str(refusal) and "set teacher.draws=0" in str(refusal)
            continue
        step(learner, batch, 3)


def step(learner, batch, steps: int) -> None:
    optimizer = torch.optim.SGD(learner.model.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        total = learner.training_step(batch, 0)
        assert total.abs() < 1e6
        (total / learner.tally[0]).backward()
        assert all(p.grad.isfinite().all() and p.grad.abs().max() < 1e6 for p in learner.model.parameters())
        optimizer.step()
        for part, seen in learner.unreviewed:
            part.review(learner._seen(learner.hidden(seen), head_of(learner.model), seen.rows))
        learner.unreviewed.clear()
        learner.tally.zero_()


def test_what_is_refused_would_have_gone_wrong():
    """The refusals are not for nothing: with draws each of these losses and signals leaves every scale."""
    batch = Collate(272)(traces(4, teacher=hf(draws=12)))
    assert student(loss=ReverseKL()).training_step(batch, 0) > 1e20
    assert TeacherCE()(batch.rows).max() > 1e20


def test_a_sum_is_refused_for_its_parts_and_only_for_those_that_count():
    parts = {"f": ForwardKL(), "r": ReverseKL()}
    served = of(hf(draws=12))
    check_compatibility(served, student(loss=Weighted(losses=parts, weights={"f": 1.0, "r": 0.0})))
    with pytest.raises(ValueError, match="loss=Weighted"):
        check_compatibility(served, student(loss=Weighted(losses=parts, weights={"f": 1.0, "r": 0.1})))
    check_compatibility(served, student(loss=SkewReverseKL(alpha=0.1)))
    with pytest.raises(ValueError, match="loss=SkewReverseKL"):
        check_compatibility(served, student(loss=SkewReverseKL(alpha=0.0)))
    with pytest.raises(ValueError, match="signal=SoftOr"):
        check_compatibility(served, student(signal=SoftOr(scale="minmax")))


class Wire:
    """A teacher that gives k logprobs and knows neither draws nor temperatures; no server is there."""

    mode, exact, tokenizer = "generate", False, None

    def origin(self) -> dict:
        raise ConnectionError("a refusal needs no server")


GATE = HardLabel(signal=CERatio(entropy="none"), selector=TopK(k_percent=20, scope="sequence"), hard="chosen")


@pytest.mark.parametrize(
    ("teacher", "learner", "served", "said"),
    [
        (hf(), {"temperature": 2.0}, {"temperature": 2.0}, "teacher.temperatures=[2.0]"),
        (hf(temperatures=[3.0]), {"temperature": 2.0}, {"temperature": 2.0}, "these know it at [1.0, 3.0]"),
        (Wire(), {"temperature": 2.0}, {"temperature": 2.0}, "student.temperature=1"),
        (hf(draws=9), {"temperature": 2.0}, {"temperature": 2.0}, "teacher.draws=0 teacher.temperatures=[2.0]"),
        (hf(temperatures=[2.0]), {"temperature": 2.0}, {}, "are one setting"),
        (hf(draws=9), {"tail": "renormalise"}, {}, "set student.tail=bucket"),
        (hf(draws=9), {"signal": CERatio(entropy="none")}, {}, "take a signal such as student_entropy"),
        (hf(draws=9), {"gate": GATE}, {}, "gate.signal=CERatio"),
        (hf(draws=9), {}, {"samples": top(by=CERatio(entropy="none"))}, "data.samples.by=CERatio"),
    ],
)
def test_a_refusal_comes_before_any_work_and_says_what_would_work(teacher, learner, served, said):
    with pytest.raises(ValueError, match=r"temperature|draws|tail") as refusal:
        check_compatibility(of(teacher, **served), student(**learner))
    assert said in str(refusal.value)


def test_what_the_traces_know_is_not_refused():
    check_compatibility(of(hf(temperatures=[2.0]), temperature=2.0), student(temperature=2.0))
    check_compatibility(of(Wire(), samples=top()), student(loss=ReverseKL(), signal=CERatio(entropy="plus")))
    check_compatibility(of(hf(draws=9), samples=top()), student())


def test_validation_of_drawn_traces_means_the_kl_of_the_full_ones():
    """One batch's rows drawn many times: the mean is KL(p, q); KL from the counts themselves is larger."""
    requests = collector().requests("train", 4)
    texts = [
        r._replace(response_ids=t.response_ids.tolist()) for r, t in zip(requests, by_order(requests), strict=True)
    ]

    def mean(price, seed, **changes) -> float:
        again = [r._replace(seed=r.seed + seed) for r in texts]
        rows = (batch := Collate(272)(list(hf(mode="score", **changes).trace(again)))).rows
        seen = stats(module.hidden(batch), head_of(module.model), rows.teacher_ids, budget_mb=1)
        return float(price(rows, seen.log_q).mean())

    module = student()
    exact = mean(lambda rows, log_q: kl(rows.teacher_logprobs, log_q), 0, mass=1.0, max_k=272)
    drawn = torch.tensor([mean(kl_of_draws, seed, draws=16) for seed in range(40)])
    assert abs(drawn.mean() - exact) < 4 * drawn.std() / 40**0.5
    naive = torch.tensor([mean(lambda r, q: kl(r.teacher_logprobs, q), seed, draws=16) for seed in range(5)])
    assert naive.min() > exact


def by_order(requests):
    found = {t.key: t for t in hf().trace(requests)}
    return [found[r.key] for r in requests]


def test_a_sure_teacher_over_the_wire_has_a_finite_price_in_every_loss(losses):
    """Its float32 logprobs sum to 1 or more, yet what the list does not name is not impossible."""
    request = collector().requests("train", 1)[0]
    made_of = [Row(0.0, [97, 98], [0.0, -19.0]), None, Row(-1e-9, [97, 98], [-1e-9, -17.0])]
    trace = wire_trace(request, [97, 97, 97], made_of, "length", 272)
    assert np.isneginf(trace.log_tail).tolist() == [False, True, False]
    for loss in losses.values():
        step(student(loss=loss), Collate(272)([trace]), 2)
