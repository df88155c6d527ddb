"""One way to look at a batch: it knows what draws are, leaves out what has no teacher, and agrees with dense logits."""

from __future__ import annotations

import pytest
import torch
from conftest import hf, traces

from ekd.data.collate import Collate
from ekd.eval.perplexity import batched, measure, perplexity_rows, reading_json
from ekd.models.load import load_model, load_tokenizer
from ekd.models.reader import agreement, divergence, read_batch
from ekd.models.rows import matched
from ekd.models.token_kinds import KINDS, kind_table, token_texts


def dense(model, made) -> list[torch.Tensor]:
    """ln q of the whole vocabulary at each response row of each trace, by plain logits."""
    found = []
    for trace in made:
        text = torch.tensor([[*trace.prompt_ids, *trace.response_ids]])
        with torch.no_grad():
            found.append(model(text).logits[0, len(trace.prompt_ids) - 1 : -1].double().log_softmax(-1))
    return found


def test_rows_are_what_dense_logits_say():
    made, model = traces(3, teacher=hf(mass=1.0, max_k=272)), load_model("tiny").eval()
    batch = Collate(272)(made)
    _, rows = read_batch(model, batch)
    log_q = torch.cat(dense(model, made))
    log_p = torch.zeros(len(log_q), 272, dtype=torch.double).scatter_(
        1, rows.teacher_ids, rows.teacher_logprobs[:, :-1].double()
    )
    torch.testing.assert_close(divergence(rows).double(), (log_p.exp() * (log_p - log_q)).sum(1), atol=1e-5, rtol=1e-4)
    assert (agreement(rows) == (log_p.argmax(1) == log_q.argmax(1))).all()
    own = log_q.gather(1, rows.target[:, None])[:, 0]
    torch.testing.assert_close(rows.student.log_q[:, 0].double(), own, atol=1e-5, rtol=1e-5)


def test_the_kl_of_draws_is_right_on_average_wherever_it_is_read():
    """Exact rows say the truth of the same texts; counts of draws come close, and read as log-probabilities do not."""
    model = load_model("tiny").eval()
    whole = traces(24, teacher=hf(mass=1.0, max_k=272))
    drawn = traces(24, teacher=hf(draws=16))
    truth = measure(model, batched(whole, 272, 4096)).kl
    right = measure(model, batched(drawn, 272, 4096, draws=True)).kl
    wrong = measure(model, batched(drawn, 272, 4096)).kl
    assert abs(right - truth) < 0.1 * truth < abs(wrong - truth)
    rows = [read_batch(model, batch)[1] for batch in batched(drawn, 272, 4096, draws=True)]
    assert torch.cat([divergence(matched(one)) for one in rows]).mean().item() == pytest.approx(right, rel=1e-5)


def test_digits_are_told_apart():
    made, model = traces(4, teacher=hf(mode="score")), load_model("tiny").eval()
    digits = kind_table(token_texts(load_tokenizer("tiny"), 272)) == KINDS.index("digits")
    reading = measure(model, batched(made, 272, 4096), digits)
    log_q, came = torch.cat(dense(model, made)), torch.cat([torch.tensor(t.response_ids).long() for t in made])
    some = torch.tensor([load_tokenizer("tiny").decode([i]).isdigit() for i in came.tolist()])
    assert reading.digits.tokens == some.sum() > 10
    assert reading.digits.ce == pytest.approx(-log_q.gather(1, came[:, None])[some].mean().item(), rel=1e-4)
    assert reading.digits.accuracy == pytest.approx((log_q.argmax(1) == came)[some].double().mean().item())
    assert reading_json(reading)["digits"]["tokens"] == some.sum() and len(perplexity_rows(reading)) == 10
    assert measure(model, batched(made, 272, 4096)).digits is None


def test_an_id_that_the_head_has_no_row_for_is_refused():
    batch = Collate(300)(traces(1, teacher=hf(mass=1.0, max_k=272)))
    ids = batch.rows.teacher_ids.clone()
    ids[0, 1] = 299
    with pytest.raises(ValueError, match="name token 299 and the model's head has 272 rows"):
        read_batch(load_model("tiny"), batch._replace(rows=batch.rows._replace(teacher_ids=ids)))
