"""Tokens in bytes, and the tokenizers whose tokens have none that can be trusted."""

from __future__ import annotations

import pytest
from families import random_merges
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ekd.translate.alignment import align
from ekd.translate.reading import LIKELY, MUTE, OPEN, SURE, Reader
from ekd.translate.spelling import Spelling, spelling_of
from ekd.translate.trie import Trie


def sentencepiece(*normal: normalizers.Normalizer, prepend: str = "never") -> PreTrainedTokenizerFast:
    vocab = {"<unk>": 0, **{f"<0x{b:02X}>": 1 + b for b in range(256)}, "a": 257, "▁": 258, "▁a": 259, "<end>": 260}
    tokenizer = Tokenizer(models.BPE(vocab, [("▁", "a")], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([*normal, normalizers.Replace(" ", "▁")])
    if prepend != "never":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def test_sentencepiece_bytes_marks_and_fallback():
    made = spelling_of(sentencepiece())
    assert made.texts[259] == b" a" and made.texts[1 + 10] == b"\n" and made.texts[made.end] == b""
    assert made.cut([b"a a", "é\n".encode(), b"\xe2 a"]) == [(257, 259), (196, 170, 11), (227, 259)]
    assert made.trie.id_of[b"a"] == 257, "<0x61> is no a"


def test_byte_level_spaces_and_halves_of_characters():
    made = spelling_of(random_merges(0, 50, by_words=True))
    text = " naïve 🦄".encode()
    assert made.spell(made.cut([text])[0]) == text
    assert made.spell(made.cut([text[:-2]])[0]) == text[:-2]


@pytest.mark.parametrize(
    ("tokenizer", "why"),
    [
        (sentencepiece(normalizers.NFKC()), "NFKC"),
        (sentencepiece(normalizers.Lowercase()), "Lowercase"),
        (sentencepiece(normalizers.Prepend("▁")), "Prepend"),
        (sentencepiece(normalizers.Replace("``", '"')), "Replace"),
        (sentencepiece(prepend="always"), "a word mark before the text"),
    ],
)
def test_a_tokenizer_that_changes_a_text_is_refused_with_the_reason(tokenizer, why):
    with pytest.raises(
        ValueError, match=f"changes a text before it reads it .*{why}.* student of the teacher's family"
    ):
        spelling_of(tokenizer)


def test_a_tokenizer_of_neither_kind_is_refused():
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "<end>": 1}, unk_token="a"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    with pytest.raises(ValueError, match="neither byte-level nor SentencePiece"):
        spelling_of(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>"))


def test_a_trie_knows_what_goes_on():
    trie = Trie(enumerate([b"a", b"ab", b"abc", b"b", b"a\xff", b"a\xff\xff", b"b"]))
    beyond = lambda text: trie.sorted[slice(*trie.beyond(text))]  # noqa: E731
    assert beyond(b"a") == [b"ab", b"abc", b"a\xff", b"a\xff\xff"]
    assert beyond(b"a\xff") == [b"a\xff\xff"] and beyond(b"abc") == [] and beyond(b"\xff") == []
    assert trie.cut(b"abab") == (1, 1) and trie.cut(b"ac") == () and trie.id_of[b"b"] == 3


def test_what_a_word_leaves_open():
    student = Spelling([b"1", b"2", b"12", b"a", b"ab", b"abc", b"b", b"c", b""], 8)
    teacher = Spelling([b"1", b"2", b"a", b"ab", b"b", b"c", b""], 6)
    reader = Reader(student, teacher)
    assert reader.fate(b"2") == SURE  # no longer token begins with it
    assert reader.fate(b"1") == OPEN  # 12 does, and the teacher writes it as 1, 2
    assert reader.fate(b"a") == SURE  # ab does, but that is one word of the teacher's; abc it writes as ab, c
    assert reader.fate(b"ab") == OPEN
    assert reader.fate(b"") == MUTE
    seen = Reader(student, None, {b"a", b"ab", b"1"})
    assert (seen.fate(b"a"), seen.fate(b"1")) == (LIKELY, OPEN)
    assert reader.goes_apart(b"1") == {ord("2")} and reader.goes_apart(b"a") == frozenset()


def test_spans_and_equal_tokens():
    made = align([1, 2, 2, 3], [1, 4, 1, 2])
    assert made.equal_teacher.tolist() == [0] and made.equal_student.tolist() == [0]
    assert [tuple(span) for span in made.spans] == [(1, 3, 1, 2), (3, 4, 2, 4)]
