"""A row that leaves ids out has a tail, however sure the teacher is; a row that names all ids has none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_loss import LOSSES, NAMES

from ekd.data.collate import Collate
from ekd.models.head import Head, distill
from ekd.models.rows import at_temperature
from ekd.models.tail import LEAST, LOG_LEAST, floored
from ekd.store.codec import Layout, decode, encode
from ekd.store.foreign import row as imported
from ekd.teacher.rows import to_trace, top
from ekd.teacher.wire.rows import Row
from ekd.teacher.wire.rows import wire_trace as from_wire
from ekd.types import Request, Trace

VOCAB, ROWS = 48, 40
TEMPERATURES = [0.5, 0.7, 1.5, 2.0]
ASKED = Request("key", "problem", 0, 0, [1, 2])


def logits(sharpness: float = 60.0) -> torch.Tensor:
    """(R, V): most rows are so sure that the named mass is 1 in float32."""
    return sharpness * torch.randn(ROWS, VOCAB, generator=torch.Generator().manual_seed(0))


def sure(max_k: int) -> Trace:
    """As a Hugging Face teacher makes it, after a stay in the store, whose rounding lets masses pass 1."""
    z = logits()
    target = z.argmax(1)
    target[::5] = 7  # not always the likeliest
    made = to_trace(ASKED, target.tolist(), "length", top(z, target, 2.0, max_k, TEMPERATURES))  # 2: never enough
    layout = Layout(VOCAB, temperatures=len(TEMPERATURES))
    back = decode(encode(made, layout), ROWS, len(made.ids), layout)
    return made._replace(**back)


@pytest.mark.parametrize("max_k", [4, VOCAB], ids=["some ids named", "all ids named"])
@pytest.mark.parametrize("temperature", [0.5, 0.7, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("name", NAMES)
def test_every_loss_at_every_temperature_has_a_bounded_price_and_gradient_on_sure_rows(name, temperature, max_k):
    column = None if temperature == 1 else TEMPERATURES.index(temperature)
    rows = Collate(VOCAB, column)([sure(max_k)]).rows
    log_p = at_temperature(rows, temperature)
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(ROWS), atol=1e-5, rtol=0)
    hidden = torch.randn(ROWS, VOCAB, generator=torch.Generator().manual_seed(1), requires_grad=True)
    total, price = distill(
        hidden, Head(torch.eye(VOCAB)), rows.teacher_ids, log_p, torch.ones(ROWS), LOSSES[name],
        temperature=temperature, budget_mb=1,
    )  # fmt: skip
    total.backward()
    assert price.isfinite().all() and price.abs().max() < 5_000
    assert hidden.grad.isfinite().all() and hidden.grad.abs().max() < 5_000


def test_there_are_rows_whose_named_mass_rounds_to_one():
    """Or the grid above shows nothing."""
    rows = Collate(VOCAB, 0)([sure(4)]).rows
    named = (rows.teacher_logprobs[:, :-1].double() / 0.5 - rows.log_norm[:, None].double()).exp().sum(1)
    assert (named >= 1).sum() > 5


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_at_a_temperature_a_row_that_names_all_has_no_tail_and_another_has_one(temperature):
    column = TEMPERATURES.index(temperature)
    whole, some = (at_temperature(Collate(VOCAB, column)([sure(k)]).rows, temperature)[:, -1] for k in (VOCAB, 4))
    assert whole.isneginf().all()
    assert (some >= LOG_LEAST - 1e-5).all()


def test_the_conversion_is_that_of_the_dense_softmax():
    z = logits(sharpness=3.0)
    target = z.argmax(1)
    exact = to_trace(ASKED, target.tolist(), "length", top(z, target, 1.0, 6, TEMPERATURES))
    for column, temperature in enumerate(TEMPERATURES):
        rows = Collate(VOCAB, column)([exact]).rows
        dense = (z.double() / temperature).softmax(1)
        named = dense.gather(1, rows.teacher_ids)
        want = torch.cat([named, 1 - named.sum(1, keepdim=True)], 1)
        torch.testing.assert_close(at_temperature(rows, temperature).exp().double(), want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_the_floor_raises_what_is_too_small_and_empties_what_is_whole(make):
    before = make([-1.0, -40.0, -math.inf, -3.0])
    after = floored(before, make([2, 2, 2, 5]), 5)
    assert after.tolist() == pytest.approx([-1.0, LOG_LEAST, LOG_LEAST, -math.inf])
    assert before.tolist() == [-1.0, -40.0, -math.inf, -3.0]  # a copy


def test_every_maker_of_rows_leaves_a_sure_row_its_tail_and_a_whole_one_none():
    target = [3]
    z = torch.full((1, 6), -math.inf)
    z[0, 3] = 0.0  # a model that forbids ids
    hf = [float(top(z, torch.tensor(target), 2.0, k, [])[3]) for k in (1, 6)]
    wire = [
        float(from_wire(ASKED, target, [Row(0.0, list(range(k)), [-500.0] * k)], "length", 6).log_tail[0])
        for k in (2, 6)
    ]
    named = [(np.array([3, *range(k)]), np.array([0.0, *[-1e9] * k]), vocab) for k, vocab in ((2, 6), (3, 4))]
    foreign = [imported(3, *some)[2] for some in named]
    for some, whole in (hf, wire, foreign):
        assert some == pytest.approx(math.log(LEAST), abs=1e-4) and whole == -math.inf


def test_a_store_that_was_made_without_the_floor_is_read_with_it_but_draws_are_left_alone():
    made = sure(4)
    bare = made._replace(log_tail=np.full(ROWS, -np.inf, np.float32), log_norm=np.zeros((ROWS, 0), np.float32))
    one = bare._replace(counts=np.ones(ROWS, np.int32), ids=bare.response_ids, logprobs=np.zeros(ROWS, np.float32))
    for draws, want in ((0, LOG_LEAST), (8, -math.inf)):
        layout = Layout(VOCAB, draws=draws)
        assert decode(encode(one, layout), ROWS, ROWS, layout)["log_tail"] == pytest.approx([want] * ROWS)
    unmatched = one._replace(valid=np.zeros(ROWS, bool))
    assert np.isneginf(decode(encode(unmatched, Layout(VOCAB)), ROWS, ROWS, Layout(VOCAB))["log_tail"]).all()
