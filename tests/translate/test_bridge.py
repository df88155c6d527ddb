"""Texts over, rows back: the hf teacher for a student of another family, and of its own."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import collector, hf
from families import CORPUS, sums_between_common_ends
from strangers import stranger

from ekd.data.collate import Collate, spans
from ekd.data.family import bridge_of
from ekd.data.mix import Stores
from ekd.data.teachers import Mean, shared_ends
from ekd.loss.forward_kl import ForwardKL
from ekd.loss.span_kl import SpanKL
from ekd.models.load import load_tokenizer
from ekd.models.rows import spans_to_price
from ekd.models.teacher_prompt import TeacherPrompt
from ekd.store.invariants import check
from ekd.store.store import Store
from ekd.types import Failure, Problem, Trace, Verdict

OURS = load_tokenizer("tiny")


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> str:
    return stranger(tmp_path_factory.mktemp("stranger"))


def made(**changes) -> list[Trace]:
    teacher = hf(**changes)
    maker = collector(teacher=teacher)
    requests = [r._replace(prompt_ids=r.read_ids) for r in maker.requests("train", 6)]
    return sorted(maker.family.teacher.trace(requests), key=lambda t: t.key)


def test_a_teacher_of_the_same_family_is_untouched():
    for align in ("auto", "same", "bytes"):
        maker = collector(teacher=hf(align=align))
        assert maker.family.bridge is None and maker.origin() == collector(teacher=hf(align="same")).origin()
        for one, other in zip(made(align=align), made(align="same"), strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_rows_of_another_family_are_sound_and_keep_what_was_said(other):
    bridge = bridge_of(load_tokenizer(other), OURS)
    maker = collector(teacher=hf(model=other, mode="score"))
    requests = {r.key: r._replace(prompt_ids=r.read_ids) for r in maker.requests("train", 6)}
    plain = hf(model=other, mode="score", align="same", mass=1.0, max_k=500)
    translated = list(maker.family.teacher.trace(requests.values()))
    size = sum(len(bridge.student.spell(t.response_ids[:-1])) for t in translated)
    assert maker.family.bridge.told().startswith(f"of the {size:,} bytes traced, ")
    assert maker.family.bridge.bytes_by_kind.sum() == size
    for trace in translated:
        check(trace._replace(prompt_ids=trace.response_ids), len(OURS), 0)
        assert trace.valid.mean() > 0.6 and not trace.exact  # the teacher's weights are random
        assert trace.response_ids.tolist() == requests[trace.key].response_ids
        ids = bridge.over(trace.response_ids.tolist())
        (own,) = plain.trace([requests[trace.key]._replace(response_ids=ids)])
        parts = sums_between_common_ends(own, bridge.teacher, SimpleNamespace(trace=trace), bridge.student)
        assert sum(sound for *_, sound in parts) > len(parts) / 2
        for theirs, said, sound in parts:
            assert said == pytest.approx(theirs, abs=1e-4) or not sound


def test_a_batch_knows_its_spans_and_they_conserve(other):
    bridge = bridge_of(load_tokenizer(other), OURS)
    maker = collector(teacher=hf(model=other, mode="score"))
    requests = {r.key: r._replace(prompt_ids=r.read_ids) for r in maker.requests("train", 4)}
    plain = hf(model=other, mode="score", align="same", mass=1.0, max_k=500)
    for trace in maker.family.teacher.trace(requests.values()):
        ids = bridge.over(trace.response_ids.tolist())
        (own,) = plain.trace([requests[trace.key]._replace(response_ids=ids)])
        parts = sums_between_common_ends(own, bridge.teacher, SimpleNamespace(trace=trace), bridge.student)
        rows = Collate(len(OURS))([trace._replace(valid=np.ones(len(trace.valid), bool))]).rows
        said = np.bincount(rows.span, rows.teacher_logprobs[:, 0])
        assert len(said) == len(parts) < len(trace.valid)
        for (theirs, _, sound), one in zip(parts, said, strict=True):
            assert one == pytest.approx(theirs, abs=1e-4) or not sound
    one = spans([trace])
    alone = one[~torch.from_numpy(trace.valid)]
    assert len(alone) and (torch.bincount(one)[alone] == 1).all()  # a row without a teacher is a span of its own
    assert spans([trace._replace(ends=None), trace])[: len(one)].tolist() == list(range(len(one)))
    assert spans([trace, trace._replace(ends=np.zeros(len(one), bool))]) is None


def test_a_loss_of_spans_is_told_them_and_refuses_traces_without(other):
    maker = collector(teacher=hf(model=other, mode="score"))
    requests = [r._replace(prompt_ids=r.read_ids) for r in maker.requests("train", 4)]
    made = list(maker.family.teacher.trace(requests))
    loss, keep = SpanKL(tau=100), torch.tensor([0, 2, 3])
    rows = Collate(len(OURS))(made).rows
    assert spans_to_price(rows, loss, keep).tolist() == rows.span[keep].tolist()
    assert spans_to_price(rows._replace(span=None), ForwardKL(), keep) is None
    with pytest.raises(ValueError, match=r"do not say where they end.* trace them into a new store"):
        spans_to_price(rows._replace(span=None), loss, keep)


def test_generated_rows_are_those_of_the_same_text_scored(other):
    maker = collector(teacher=hf(model=other, max_new_tokens=8))
    requests = {r.key: r._replace(prompt_ids=r.read_ids) for r in maker.requests("train", 12)}
    teacher, bridge, compared = maker.family.teacher, maker.family.bridge, 0
    written = {t.key: t.response_ids for t in hf(model=other, align="same", max_new_tokens=8).trace(requests.values())}
    for trace in teacher.trace(requests.values()):
        if isinstance(trace, Failure) or bridge.over(trace.response_ids.tolist()) != written[trace.key].tolist():
            continue  # a special token within; or written otherwise than its tokenizer reads it, so with other rows
        (again,) = teacher.trace([requests[trace.key]._replace(response_ids=trace.response_ids.tolist())])
        assert np.array_equal(again.ids, trace.ids)
        assert np.allclose(again.logprobs, trace.logprobs, atol=1e-4)
        compared += 1
    assert compared >= 2


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"bridge": "x"}, "teacher.bridge is made for the student and not given: leave 'x' out"),
        ({"align": "maybe"}, "teacher.align is auto, same or bytes, not 'maybe'"),
        ({"draws": 8}, "teacher.draws=8 is known of the teacher's ids.* set teacher.draws=0, or"),
        ({"temperatures": [2.0]}, r"teacher.temperatures=\[2.0\] is known.* set teacher.temperatures=\[\], or"),
    ],
)
def test_what_translated_rows_cannot_have_is_refused(other, change, why):
    with pytest.raises(ValueError, match=why):
        _ = collector(teacher=hf(model=other, **change)).family


def test_same_refuses_a_stranger(other, tmp_path):
    with pytest.raises(ValueError, match="the tokenizers differ"):
        collector(teacher=hf(model=other, align="same", mode="score"), store=str(tmp_path / "s")).collect("train", 2)


def test_stores_of_translated_rows_never_mix_with_others(other, tmp_path):
    def maker(**changes):
        return collector(teacher=hf(model=other, mode="score"), store=str(tmp_path / "s"), **changes)

    assert maker().collect("train", 3).made == 3 and maker().collect("train", 3).made == 0
    with pytest.raises(ValueError, match="align"):
        collector(teacher=hf(model=other, mode="score"), tokenizer=other, store=str(tmp_path / "s")).open()


def test_texts_go_over_as_far_as_they_are_texts(other):
    theirs = load_tokenizer(other)
    bridge = bridge_of(theirs, OURS)
    ids = OURS.encode("the cat sat on 12")
    end, begin = OURS.eos_token_id, OURS.convert_tokens_to_ids("<|im_start|>")
    assert bridge.over([*ids, end]) == [*theirs.encode("the cat sat on 12"), theirs.eos_token_id]
    assert (
        bridge.over(ids)
        == bridge.over([*ids, begin, *ids])
        == bridge.over([*ids, 270])
        == theirs.encode("the cat sat on 12")
    )
    assert bridge.over([end]) == [theirs.eos_token_id]
    with pytest.raises(ValueError, match="begins with the student's special token"):
        bridge.over([begin, *ids])


def test_a_second_reading_is_of_the_same_tokens(other, tmp_path):
    again = TeacherPrompt(question="{{ question }} Really?", system=None, instruction=None, shots=None)
    maker = collector(teacher=hf(model=other, mode="score"), contrast=again, store=str(tmp_path / "s"))
    assert maker.collect("train", 2).made == 2
    for trace in map(maker.open().__getitem__, sorted(maker.open().keys())):
        known = ~np.isnan(trace.contrast)
        assert len(trace.contrast) == len(trace.response_ids) and known.mean() > 0.6
        first = trace.logprobs[np.cumsum(trace.counts) - trace.counts]
        assert not np.allclose(trace.contrast[known & trace.valid], first[known & trace.valid])


class Texts:
    """Plain text, as dataset=corpus has it."""

    def problems(self, split: str) -> list[Problem]:
        return [Problem(f"{split}-{n}", "", "", text) for n, text in enumerate(CORPUS[:3])]

    def grade(self, problem: Problem, response: str) -> Verdict:
        return Verdict("unparseable", "")


def test_plain_text_is_read_behind_what_begins_a_text_on_either_side(other, tmp_path):
    maker = collector(teacher=hf(model=other, mode="score"), dataset=Texts(), text_tokens=20, store=str(tmp_path / "s"))
    assert maker.collect("train", 3).made >= 3
    theirs, texts = load_tokenizer(other), [text.encode() for text in CORPUS[:3]]
    for trace in map(maker.open().__getitem__, sorted(maker.open().keys())):
        assert trace.prompt_ids.tolist() == [OURS.bos_token_id]
        assert trace.teacher_prompt_ids.tolist() == [theirs.eos_token_id]  # it has no token that begins a text
        piece = maker.family.bridge.student.spell(
            trace.response_ids[: len(trace.response_ids) - (trace.finish == "stop")]
        )
        assert any(piece in text for text in texts)


def test_stores_of_several_teachers_are_read_together(other, tmp_path_factory):
    """Whatever the tokenizers of the teachers were: rows are the student's."""
    larger = stranger(tmp_path_factory.mktemp("larger"), size=500)
    paths = [str(tmp_path_factory.mktemp("stores") / name) for name in ("one", "two")]
    for model, path in zip((other, larger), paths, strict=True):
        assert collector(teacher=hf(model=model, mode="score"), store=path).collect("train", 2).made == 2
    assert len({Store(path).layout.read for path in paths}) == 2
    asked = SimpleNamespace(collector=collector(), temperature=1.0, samples=None)
    Stores(paths=paths, weights=None, mean=True).check(asked)
    both = Mean([Store(path) for path in paths])
    key, own = next(iter(both.places.items()))
    one, two = (store[key].ends for store, key in zip(both.stores, own, strict=True))
    assert (both[key].ends == (one & two)).all()
    assert shared_ends([one, ~one]).sum() == 0 and shared_ends([]) is None
    assert len(both.keys()) == 2 and all(both[key].valid.mean() > 0.6 for key in both.keys())  # noqa: SIM118
    with pytest.raises(ValueError, match="keep other rows"):
        same = str(tmp_path_factory.mktemp("stores") / "same")
        collector(teacher=hf(mode="score"), store=same).collect("train", 1)  # of 272 ids, where the others have 258
        Stores(paths=[paths[0], same], weights=None, mean=False).check(asked)
