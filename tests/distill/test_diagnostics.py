"""The report on a selector's choice, against counts made by hand, and without side effects."""

from __future__ import annotations

import pytest
import torch
from conftest import hf, traces

from ekd.data.collate import Collate
from ekd.distill.diagnostics import Diagnostics, closes, place_in_sequence
from ekd.models.head import head_of, stats
from ekd.models.load import load_model, load_tokenizer
from ekd.models.rows import kl
from ekd.models.token_kinds import kind_of
from ekd.selector.random import Random
from ekd.selector.topk import TopK
from ekd.signal.teacher_entropy import TeacherEntropy


@pytest.fixture(scope="module")
def seen():
    batch = Collate(272)(traces(6, teacher=hf(mode="score")))
    model = load_model("tiny").eval()
    with torch.no_grad():
        hidden = model.get_decoder()(batch.input_ids, batch.attention_mask).last_hidden_state[batch.mask]
    rows = batch.rows._replace(student=stats(hidden, head_of(model), batch.rows.teacher_ids, budget_mb=1))
    return rows, kl(rows.teacher_logprobs, rows.student.log_q)


def report(seen, selector):
    rows, costs = seen
    made = Diagnostics("tiny")
    made.update(rows, costs, TeacherEntropy(), selector)
    return made.compute()


def test_the_top_20_percent_by_teacher_entropy_overlap_fully_with_themselves(seen):
    found = report(seen, TopK(k_percent=20, scope="sequence"))
    assert found["choice/overlap/teacher_top20"] > 0.95  # ceil(k n / 100) takes up to one row more
    assert 0.05 < found["choice/overlap/random20"] < 0.4
    assert found["choice/teacher_entropy/chosen"] > found["choice/teacher_entropy/left"]
    assert 0.2 <= found["choice/share"] < 0.22


def test_figures_are_the_means_of_their_rows(seen):
    rows, costs = seen
    found = report(seen, TopK(k_percent=35, scope="sequence"))
    chosen = TopK(k_percent=35, scope="sequence")(rows.teacher_entropy, rows.sequence) > 0
    words = [load_tokenizer("tiny").decode([i]) for i in rows.target]
    digits = torch.tensor([word.isdigit() for word in words])
    torch.testing.assert_close(found["choice/kind/chosen/digits"], digits[chosen].float().mean())
    torch.testing.assert_close(found["choice/student_entropy/left"], rows.student.entropy[~chosen].mean())
    low = place_in_sequence(rows.teacher_entropy, rows) < 0.1
    torch.testing.assert_close(found["choice/kl/decile0"], costs[low].mean())
    starts = [p == 0 or closes(words[i - 1]) for i, p in enumerate(rows.position.tolist())]
    torch.testing.assert_close(found["choice/kind/left/sentence_start"], torch.tensor(starts)[~chosen].float().mean())
    assert "choice/kl/chosen/decile0" not in found  # nobody chose there


def test_looking_does_not_move_the_selector(seen):
    selector = Random(k_percent=20, seed=0, scope="sequence")
    report(seen, selector)
    assert int(selector.step) == 0


def test_kinds():
    kinds = {" 42": "digits", "+": "operators", " apple": "words", ".": "punctuation", " ": "other", "\\boxed": "words"}
    assert {token: kind_of(token) for token in kinds} == kinds
    assert closes(".") and closes("\n\n") and not closes(" a")
