"""What the tokens of a tokenizer are in bytes, and how it cuts bytes into tokens.

A token's bytes are read from the vocabulary itself (decoding one id at a time would turn half a character into
U+FFFD): GPT-2's map of bytes to printable characters for byte-level vocabularies, the <0xE2> tokens and the word mark
for SentencePiece ones. Special tokens have none: what they mean is a role, and only the end of a turn has one that
another tokenizer shares.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ekd.models.turn import end_of_turn
from ekd.translate.trie import Trie

WORD_MARK = "\u2581"  # SentencePiece writes a space so
BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>$")
_TYPE = re.compile(r'"type": "(\w+)"')


@dataclass(frozen=True, eq=False)
class Spelling:
    """texts: the bytes of each id, b"" for one that has none. end: the id that closes an answer.

    encode: the tokenizer's own reading of texts; None: each token as long as can be. spare: ids of bytes that another
    id is meant for (SentencePiece's <0x61> is no "a").
    """

    texts: list[bytes]
    end: int
    encode: Callable[[list[str]], list[list[int]]] | None = None
    spare: frozenset[int] = frozenset()

    @cached_property
    def trie(self) -> Trie:
        ids = sorted(range(len(self.texts)), key=self.spare.__contains__)
        return Trie((i, self.texts[i]) for i in ids)

    @cached_property
    def known(self) -> frozenset[bytes]:
        """Every text that is one token."""
        return frozenset(self.texts) - {b""}

    def text(self, i: int) -> bytes:
        """b"" also for an id beyond the tokenizer's: a model may have more."""
        return self.texts[i] if i < len(self.texts) else b""

    def spell(self, ids: Sequence[int]) -> bytes:
        return b"".join(self.texts[i] for i in ids)

    def cut(self, words: Sequence[bytes]) -> list[tuple[int, ...]]:
        """The ids of each; () where the tokenizer has no way of writing it. Half characters are cut greedily."""
        readable = [word for word in words if self.encode is not None and _is_text(word)]
        read = self.encode([word.decode() for word in readable]) if self.encode is not None and readable else []
        own = {word: tuple(ids) for word, ids in zip(readable, read, strict=True) if self.spell(ids) == word}
        return [own[word] if word in own else self.trie.cut(word) for word in words]

    def same(self, other: Spelling) -> bool:
        """Whether an id means the same in both; one may have more at its end (Qwen's have)."""
        shared = min(len(self.texts), len(other.texts))
        return self.end == other.end and self.texts[:shared] == other.texts[:shared]


def spelling_of(tokenizer: PreTrainedTokenizerBase) -> Spelling:
    """Raises ValueError, one sentence, for a tokenizer that changes a text before it reads it."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path!r} is not of the fast kind, whose tokens are known in bytes; "
            "choose a student of the teacher's family"
        )
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    level = byte_level(parts)
    if level is None:
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path!r} is neither byte-level nor SentencePiece, so the bytes of its "
            "tokens are not known; choose a student of the teacher's family"
        )
    _refuse_changes(parts, level, tokenizer.name_or_path)
    table = bytes_of(tokenizer, level)
    marks = {} if level else {i: t for t, i in tokenizer.get_vocab().items() if BYTE_TOKEN.match(t)}
    plain = plain_copy(parts, level)

    def encode(texts: list[str]) -> list[list[int]]:
        return [found.ids for found in plain.encode_batch_fast(texts, add_special_tokens=False)]

    texts = [table.get(i, b"") for i in range(len(tokenizer))]
    return Spelling(texts, end_of_turn(tokenizer), encode, frozenset(marks))


def bytes_of(tokenizer: PreTrainedTokenizerFast, level: bool) -> dict[int, bytes]:
    """The bytes of every id that stands for text; special tokens (an end token, a role mark) stand for none."""
    added = tokenizer.added_tokens_decoder
    read = _byte_level_bytes if level else _marked_bytes
    table = {i: read(token) for token, i in tokenizer.get_vocab().items() if i not in added}
    return table | {i: token.content.encode() for i, token in added.items() if not token.special}


def byte_level(parts: dict[str, Any]) -> bool | None:
    """parts: a tokenizer as JSON. Whether it is byte-level; False: SentencePiece; None: neither."""
    kinds = _kinds(parts["decoder"], parts["pre_tokenizer"])
    if "ByteLevel" in kinds:
        return True
    return False if kinds & {"ByteFallback", "Metaspace"} else None


def plain_copy(parts: dict[str, Any], level: bool) -> Tokenizer:
    """One that neither normalises (a byte-level one needs none) nor sees special tokens in ordinary text."""
    plain = Tokenizer.from_str(json.dumps(parts | {"normalizer": None} if level else parts))
    plain.encode_special_tokens = True
    return plain


def _refuse_changes(parts: dict[str, Any], level: bool, name: str) -> None:
    kinds = _kinds(parts["normalizer"])
    # NFC leaves nearly every text as it is, and the plain copy of a byte-level tokenizer leaves it out.
    changes = sorted(kinds - {"Sequence", "Replace"} - ({"NFC"} if level else set()))
    if '"prepend_scheme": "never"' not in (before := json.dumps(parts["pre_tokenizer"])) and "Metaspace" in before:
        changes.append("a word mark before the text")
    if '"add_prefix_space": true' in before and "ByteLevel" in before:
        changes.append("a space before the text")
    if _others_replaced(parts["normalizer"]):
        changes.append("Replace")
    if changes:
        raise ValueError(
            f"the tokenizer of {name!r} changes a text before it reads it ({', '.join(changes)}), so its tokens do not "
            "spell the text's bytes and no row can be translated; choose a student of the teacher's family"
        )


def _others_replaced(normalizer: dict[str, Any] | None) -> bool:
    """Whether anything but a space becomes something else."""
    steps = (normalizer or {}).get("normalizers", [normalizer] if normalizer else [])
    return any(
        step["type"] == "Replace" and (step["pattern"], step["content"]) != ({"String": " "}, WORD_MARK)
        for step in steps
    )


def _kinds(*parts: Any) -> set[str]:
    return set(_TYPE.findall(json.dumps(parts)))


def _byte_level_bytes(token: str) -> bytes:
    return bytes(_BYTE_OF[c] for c in token) if all(c in _BYTE_OF for c in token) else b""


def _marked_bytes(token: str) -> bytes:
    byte = BYTE_TOKEN.match(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(WORD_MARK, " ").encode()


def _byte_of() -> dict[str, int]:
    """GPT-2's map, backwards: printable bytes stand for themselves, the others for characters from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTE_OF = _byte_of()


def _is_text(word: bytes) -> bool:
    try:
        word.decode()
    except UnicodeDecodeError:
        return False
    return True
