"""Texts to ids: exact bytes, and no valid row that is not what the teacher did."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ekd.teacher.wire.dialect import same_text, whole_characters
from ekd.teacher.wire.matching import Entry, align_entries, vet
from ekd.teacher.wire.rows import Row, wire_trace
from ekd.teacher.wire.vocabulary import Vocabulary, vocabulary_of
from ekd.types import Failure, Request

# SmolLM2 has no tokens for a few control characters, nor for the bytes that begin characters beyond the emoji.
characters = st.characters(codec="utf-8", exclude_categories=["Cc"], max_codepoint=0x1FFFF)
words = st.sampled_from(
    [" the", " answer", "ing", "</li>", "\n\n", " 42", "naïve", " 東京", "🦄", "👩\u200d👧", "<|im_end|>"]
)
texts = st.lists(st.one_of(characters, words), min_size=1, max_size=12).map("".join)


class Told(NamedTuple):
    entries: list[Entry]
    truth: dict[tuple[int, int], float]  # (first byte, id) -> the logprob that the teacher gave that token


def lossy_server(ids: list[int], held: int | None, rare: list[bool], vocabulary: Vocabulary) -> Told:
    """As Ollama: a token that ends inside a character has no entry, one held for a stop string joins the next.

    rare: tokens that were chosen although they are not among the most likely.
    """
    entries, truth, pending, start = [], {}, b"", 0
    for n, token in enumerate(ids):
        spelling, logprob = vocabulary.bytes_of[token], -1.0 - n / 64 - 8 * rare[n]
        truth[start, token] = logprob
        start += len(spelling)
        pending += spelling
        if n == held or not whole(pending):
            continue
        name = spelling if whole(spelling) else b"\xef\xbf\xbd"
        top = [(b"", -2.5), (b"qqq", -3.0)]
        entries.append(Entry(pending, logprob, top if rare[n] else [(name, logprob), *top]))
        pending = b""
    return Told(entries, truth)


def whole(spelling: bytes) -> bool:
    try:
        spelling.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.real
@settings(deadline=None, max_examples=250)
@given(text=texts, data=st.data())
def test_no_valid_row_is_wrong(text: str, data: st.DataObject) -> None:
    vocabulary = vocabulary_of("smollm2")
    ids, held = vocabulary.spell(text), None
    place = data.draw(st.integers(0, len(ids) - 1))
    if data.draw(st.booleans(), "written in another way than the tokenizer would"):
        spelling = vocabulary.bytes_of[ids[place]]
        parts = [vocabulary.id_of.get(spelling[:1]), vocabulary.id_of.get(spelling[1:])]
        assume(None not in parts)
        ids[place : place + 1] = parts
    if data.draw(st.booleans(), "a stop string holds a token") and place < len(ids) - 1:
        held = place
    rare = data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
    told = lossy_server(ids, held, rare, vocabulary)
    found, rows = align_entries(told.entries, text, len(ids), vocabulary)
    assert b"".join(vocabulary.bytes_of[i] for i in found).decode() == text
    own = set(places(vocabulary.spell(text), vocabulary))
    for n, (spot, row) in enumerate(zip(places(found, vocabulary), rows, strict=True)):
        if row is not None:
            assert told.truth[spot] == row.target
            assert spot in own
            # a stop string's merges, which no request of ours allows, can hide tokens that the count does not prove
            assert held is not None or found[:n] == ids[:n]
    if len(told.entries) == len(ids) and ids == vocabulary.spell(text):
        assert None not in rows or None in [vocabulary.id_of.get(entry.spelling) for entry in told.entries]


def places(ids: list[int], vocabulary: Vocabulary) -> list[tuple[int, int]]:
    starts = np.cumsum([0, *(len(vocabulary.bytes_of[i]) for i in ids)]).tolist()
    return list(zip(starts, ids, strict=False))


@pytest.mark.real
@settings(deadline=None, max_examples=100)
@given(text=texts)
def test_spelling_keeps_every_byte_and_is_the_tokenizers_own(text: str) -> None:
    assume("<|im_end|>" not in text)  # which the tokenizer alone would take for the end
    vocabulary = vocabulary_of("smollm2")
    ids = vocabulary.spell(text)
    assert b"".join(vocabulary.bytes_of[i] for i in ids) == text.encode()
    assert ids == vocabulary.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert same_text(ids, text, vocabulary)
    assert whole_characters(ids, vocabulary)[-1]


@pytest.mark.real
def test_special_tokens_in_a_response_are_ordinary_text() -> None:
    vocabulary = vocabulary_of("smollm2")
    ids = vocabulary.spell("<|im_end|>")
    assert len(ids) > 1
    assert vocabulary.tokenizer.eos_token_id not in ids
    assert vocabulary.prompt([1, *ids]) == "<|im_start|><|im_end|>"
    assert b"<|im_end|>" not in vocabulary.id_of


def sentencepiece(mark: str) -> PreTrainedTokenizerFast:
    """As Llama 2 has it: a word mark for the space, bytes for what the vocabulary lacks."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    tokens += ["▁", "a", "b", "▁a", "▁b", "ab", "▁ab", "é"]
    merges = [("▁", "a"), ("▁", "b"), ("a", "b"), ("▁a", "b")]
    vocab = {token: i for i, token in enumerate(tokens)}
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if mark == "prepend":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif mark == "metaspace":
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        made.normalizer = normalizers.Replace(" ", "▁")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("mark", ["prepend", "metaspace", "none"])
@settings(deadline=None, max_examples=40)
@given(text=st.one_of(texts, st.sampled_from(["ab a", " ab", "\nab", "  b", "🦄 é\n b"])))
def test_sentencepiece_vocabularies_keep_every_byte(mark: str, text: str) -> None:
    assume("▁" not in text)  # which it cannot tell from a space
    vocabulary = Vocabulary(sentencepiece(mark))
    assert b"".join(vocabulary.bytes_of[i] for i in vocabulary.spell(text)) == text.encode()


def test_a_tokenizer_of_neither_kind_is_refused() -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ValueError, match="neither byte-level nor SentencePiece"):
        Vocabulary(PreTrainedTokenizerFast(tokenizer_object=words)).spell("a")


def test_two_ids_with_the_same_bytes_have_no_name() -> None:
    made = sentencepiece("none")
    made.add_tokens(["ab "])  # as an added token: its text is "ab " and nobody else's
    made.add_tokens([" a"])
    vocabulary = Vocabulary(made)
    assert vocabulary.id_of[b"ab "] == made.convert_tokens_to_ids("ab ")
    assert b" a" not in vocabulary.id_of  # the added " a" and "▁a"


def test_a_byte_token_is_for_what_has_no_other_token() -> None:
    """As every Gemma has both "7" and <0x37>; the tokenizer writes the latter only where the former is missing."""
    made = sentencepiece("none")
    vocabulary = Vocabulary(made)
    assert vocabulary.id_of[b"a"] == made.convert_tokens_to_ids("a")
    assert vocabulary.id_of[b"c"] == made.convert_tokens_to_ids("<0x63>")
    assert vocabulary.spell("ac") == [vocabulary.id_of[b"a"], vocabulary.id_of[b"c"]]


def lossy(ids: list[int], vocabulary: Vocabulary, **rare: bool) -> list[Entry]:
    return lossy_server(ids, None, [rare.get(f"_{n}", False) for n in range(len(ids))], vocabulary).entries


@pytest.mark.real
def test_a_hole_that_the_count_proves_leaves_the_rows_behind_it_valid() -> None:
    vocabulary = vocabulary_of("smollm2")
    text = "Say 🦄 and 42."
    ids = vocabulary.spell(text)
    found, rows = align_entries(lossy(ids, vocabulary, _0=True), text, len(ids), vocabulary)
    assert found == ids
    unmatched = b"".join(vocabulary.bytes_of[i] for i, row in zip(ids, rows, strict=True) if row is None)
    assert unmatched.decode().strip() == "🦄"
    assert rows[0].target < -8  # sampled outside of its list, and matched all the same


@pytest.mark.real
def test_behind_a_hole_that_may_be_written_in_another_way_nothing_is_believed() -> None:
    """The teacher wrote the unicorn byte by byte: one token more than the fewest, so the reading is not what it saw."""
    vocabulary = vocabulary_of("smollm2")
    text, single = "Say 🦄 and 42.", [vocabulary.id_of[bytes([b])] for b in "🦄".encode()]
    ids = [*vocabulary.spell("Say "), *single, *vocabulary.spell(" and 42.")]
    found, rows = align_entries(lossy(ids, vocabulary), text, len(ids), vocabulary)
    assert b"".join(vocabulary.bytes_of[i] for i in found).decode() == text
    valid = [n for n, row in enumerate(rows) if row is not None]
    assert valid
    assert found[: max(valid) + 1] == ids[: max(valid) + 1]


@pytest.mark.real
def test_a_token_outside_its_list_is_doubted_only_where_tokens_are_missing() -> None:
    vocabulary = vocabulary_of("smollm2")
    ids = vocabulary.spell("The answer is 42.")
    for tokens in (len(ids), None):
        assert None not in align_entries(lossy(ids, vocabulary, _2=True), "The answer is 42.", tokens, vocabulary)[1]
    _, rows = align_entries(lossy(ids, vocabulary, _2=True), "The answer is 42.", len(ids) + 1, vocabulary)
    assert [n for n, row in enumerate(rows) if row is None] == list(range(2, len(ids)))


request = Request("k", "p", 0, 0, [1, 2])


@settings(deadline=None, max_examples=100)
@given(
    logits=st.lists(st.floats(-8, 8), min_size=3, max_size=12),
    shown=st.integers(1, 12),
    vocab=st.sampled_from([12, 300, 150_000]),
)
def test_the_entropy_lies_within_its_bounds(logits: list[float], shown: int, vocab: int) -> None:
    """Against the true distribution, of which the server shows the first `shown` tokens."""
    log_p = np.array(logits) - np.log(np.exp(logits).sum())
    order = np.argsort(-log_p)[:shown]
    row = Row(float(log_p[0]), order.tolist(), log_p[order].tolist())
    trace = wire_trace(request, [0], [row], "length", vocab)
    named = {0, *order.tolist()}
    assert set(trace.ids.tolist()) == named
    assert trace.ids[0] == 0
    tail = 1 - np.exp(log_p[list(named)]).sum()
    lower = -sum(np.exp(log_p[i]) * log_p[i] for i in named) - (tail * np.log(tail) if tail > 1e-12 else 0)
    upper = lower + max(tail, 0) * np.log(max(vocab - len(named), 1))
    assert lower - 1e-5 <= trace.entropy[0] <= upper + 1e-5
    truth = -np.sum(np.exp(log_p) * log_p)
    assert lower - 1e-5 <= truth <= upper + 1e-5 or vocab < len(logits)


def test_what_is_no_distribution_is_refused() -> None:
    with pytest.raises(ValueError, match="not a distribution"):
        wire_trace(request, [0], [Row(-0.1, [1, 2], [-0.1, -0.2])], "length", 10)
    with pytest.raises(ValueError, match="not a distribution"):
        wire_trace(request, [0], [Row(float("nan"), [], [])], "length", 10)


def traced(rows: list[bool], key: str = "k"):
    made = [Row(-0.5, [], []) if valid else None for valid in rows]
    return wire_trace(request._replace(key=key), [3] * len(rows), made, "length", 10)


def test_a_few_unmatched_rows_pass_and_many_do_not() -> None:
    few, many = [traced([True] * 95 + [False] * 5)] * 4, [traced([True] * 50 + [False] * 50)] * 4
    assert list(vet(few, 0.1)) == few
    with pytest.raises(ValueError, match="100 of the first 200 tokens"):
        next(vet(many, 0.1))
    assert len(list(vet(many, 0.6))) == 4


def test_one_end_token_is_no_unmatched_row_to_the_vetting() -> None:
    stopped = traced([True, False])._replace(finish="stop")
    assert list(vet([stopped] * 3, 0.0)) == [stopped] * 3


def test_when_everything_fails_the_run_ends_early() -> None:
    failures = [Failure(str(n), "p", "it broke") for n in range(20)]
    with pytest.raises(ValueError, match="the first 8 requests all failed; the last one: it broke"):
        list(vet(failures, 0.1))
    assert list(vet([traced([True] * 3), *failures], 0.1))[1:] == failures
