"""What has to be true of every translation, whatever the two tokenizers are."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from fake_traces import same
from families import random_merges, some_trace, sums_between_common_ends, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from ekd.models.load import load_tokenizer
from ekd.store.invariants import check
from ekd.translate.spelling import Spelling, spelling_of
from ekd.translate.translation import translate

seeds = st.integers(0, 5)


@lru_cache(maxsize=16)
def spelling(seed: int) -> Spelling:
    return spelling_of(random_merges(seed, 60 + 60 * seed, by_words=seed % 2 == 0))


@settings(max_examples=150, deadline=None)
@given(text=texts, pair=st.tuples(seeds, seeds), seed=st.integers(0, 1 << 30), stop=st.booleans())
def test_what_was_written_keeps_its_logprob_between_common_ends(text, pair, seed, stop):
    teacher, student = map(spelling, pair)
    trace = some_trace(text, teacher, np.random.default_rng(seed), stop=stop)
    made = translate(trace, teacher, student, np.array([1, 2, 3]), least=0.0)
    check(made.trace, len(student.texts), 0)
    assert student.spell(made.trace.response_ids.tolist()) == text.encode()
    assert made.trace.prompt_ids.tolist() == [1, 2, 3]
    parts = sums_between_common_ends(trace, teacher, made, student)
    if teacher.same(student):
        assert made.trace.ends is None  # everywhere
    else:
        assert made.trace.ends.sum() == len(parts) and made.trace.ends[-1]
    for theirs, own, sound in parts:
        assert sound
        assert own == pytest.approx(theirs, abs=1e-5 * max(1, abs(theirs)))


@settings(max_examples=30, deadline=None)
@given(text=texts, seed=st.integers(0, 1 << 30))
def test_the_same_tokenizer_gives_the_same_rows(text, seed):
    teacher = spelling(3)
    trace = some_trace(text, teacher, np.random.default_rng(seed))
    made = translate(trace, teacher, spelling_of(random_merges(3, 240, by_words=False)), trace.prompt_ids)
    assert same(made.trace, trace)
    assert (made.kinds() == 0).all()
    assert made.bytes_by_kind().tolist() == [len(text.encode()), 0, 0]


def test_another_tokenizer_that_cuts_the_same_gives_the_same_rows_by_other_ids():
    texts = [bytes([b]) for b in range(97, 123)]
    teacher, student = Spelling([*texts, b""], 26), Spelling([b"", *reversed(texts)], 0)
    trace = some_trace("hello", teacher, np.random.default_rng(0))
    made = translate(trace, teacher, student, trace.prompt_ids)
    assert (26 - made.trace.ids).tolist() == trace.ids.tolist()
    np.testing.assert_allclose(made.trace.logprobs, trace.logprobs, atol=1e-6)
    np.testing.assert_allclose(made.trace.log_tail, trace.log_tail, atol=1e-6)
    assert not made.trace.exact


def test_a_row_without_a_distribution_makes_none():
    teacher, student = spelling(0), spelling(5)
    trace = some_trace("the cat sat on the mat", teacher, np.random.default_rng(0))
    trace = trace._replace(valid=np.zeros(len(trace.counts), bool))
    made = translate(trace, teacher, student, trace.prompt_ids)
    assert not made.trace.valid.any() and (made.trace.counts == 1).all() and not made.trace.logprobs.any()
    assert (made.kinds() == 2).all()


def test_a_token_inside_a_word_of_which_little_is_named_is_unmatched():
    teacher, student = Spelling([b"a", b"b", b"ab", b""], 3), Spelling([b"a", b"b", b""], 2)
    trace = some_trace("ab", teacher, np.random.default_rng(0), most=0, stop=False)
    trace = trace._replace(logprobs=np.log([0.02]).astype(np.float32), log_tail=np.log([0.98]).astype(np.float32))
    made = translate(trace, teacher, student, trace.prompt_ids, least=0.1)
    assert made.trace.valid.tolist() == [True, False]  # 0.02 of the 1 that may begin with "a"
    assert translate(trace, teacher, student, trace.prompt_ids, least=0.01).trace.valid.all()


def test_the_end_of_a_turn_is_the_end_of_a_turn():
    teacher, student = spelling(1), spelling(4)
    trace = some_trace("日本語", teacher, np.random.default_rng(1))
    made = translate(trace, teacher, student, trace.prompt_ids)
    assert made.trace.response_ids[-1] == student.end
    last = made.trace.logprobs[-int(made.trace.counts[-1])]
    assert last == pytest.approx(trace.logprobs[-int(trace.counts[-1])], abs=1e-6)


def test_a_special_token_inside_an_answer_is_refused():
    teacher = Spelling([b"a", b"b", b"", b""], 2)
    trace = some_trace("ab", teacher, np.random.default_rng(0))
    trace = trace._replace(response_ids=np.array([0, 3, 2], np.int32))
    with pytest.raises(ValueError, match="special token 3"):
        translate(trace, teacher, Spelling([b"b", b"a", b""], 2), trace.prompt_ids)


@pytest.mark.real
def test_a_real_vocabulary_for_random_merges_and_back():
    real, other = spelling_of(load_tokenizer("smollm2")), spelling(4)
    for teacher, student in ((real, other), (other, real)):
        trace = some_trace("the cat sat on 1234 mats: naïve", teacher, np.random.default_rng(2))
        made = translate(trace, teacher, student, trace.prompt_ids, least=0.0)
        check(made.trace, len(student.texts), 0)
        assert all(
            own == pytest.approx(theirs, abs=1e-4)
            for theirs, own, _ in sums_between_common_ends(trace, teacher, made, student)
        )
