"""Texts and ids of one tokenizer, by bytes.

A server names tokens by their text; a trace needs ids. What a token is in bytes is `ekd.translate.spelling`'s to say.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from ekd.models.load import load_tokenizer
from ekd.models.turn import end_of_turn
from ekd.translate.spelling import BYTE_TOKEN, byte_level, bytes_of, plain_copy

LOST = "\ufffd".encode()


@dataclass(frozen=True)
class Vocabulary:
    tokenizer: PreTrainedTokenizerFast

    @property
    def size(self) -> int:
        return len(self.tokenizer)

    @cached_property
    def end(self) -> int:
        """The id that closes an answer."""
        return end_of_turn(self.tokenizer)

    @cached_property
    def end_text(self) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(self.end))

    @cached_property
    def bytes_of(self) -> dict[int, bytes]:
        """The bytes of every id that stands for text; special tokens (an end token, a role mark) stand for none."""
        return bytes_of(self.tokenizer, self._byte_level)

    @cached_property
    def ids_of(self) -> dict[bytes, list[int]]:
        """All ids with these bytes. SentencePiece's byte tokens are for what has no other, so <0x61> is no "a"."""
        table: dict[bytes, list[int]] = {}
        for i, spelling in self.bytes_of.items():
            table.setdefault(spelling, []).append(i)
        return {
            spelling: [i for i in ids if i not in self._byte_tokens] or ids
            for spelling, ids in table.items()
            if spelling
        }

    @cached_property
    def id_of(self) -> dict[bytes, int]:
        """The id that alone has these bytes. Absent: bytes that several ids share, and U+FFFD, which a server writes
        for any half of any character."""
        return {spelling: ids[0] for spelling, ids in self.ids_of.items() if len(ids) == 1 and LOST not in spelling}

    def fewest(self, spelling: bytes) -> list[int] | None:
        """These bytes in as few tokens as possible, two at least, all but the last of which end inside a character.

        None where there is no way of writing them so, or more than one in as few.
        """
        ends = [at for at in range(1, len(spelling)) if _inside(spelling[at])]
        best: dict[int, list[list[int]]] = {0: [[]]}  # bytes written -> the ways in fewest tokens, two at most
        for end in [*ends, len(spelling)]:
            ways = [
                [*way, i]
                for begin, known in best.items()
                if begin or end < len(spelling)
                for i in self.ids_of.get(spelling[begin:end], ())
                for way in known
            ]
            least = min(map(len, ways), default=0)
            best[end] = [way for way in ways if len(way) == least][:2]
        found = best[len(spelling)] if LOST not in spelling else []
        return found[0] if len(found) == 1 else None

    @cached_property
    def ambiguous(self) -> set[bytes]:
        """Whole tokens that a longer one looks like when a server drops the half character at its end.

        In SmolLM2 37 tokens are a space and the beginning of a character, so " " in a list may be any of 38.
        """
        cuts = (_whole_part(spelling) for spelling in self.bytes_of.values())
        return {cut for cut in cuts if cut is not None}

    def spell(self, text: str) -> list[int]:
        """The tokenizer's own ids of a response: their bytes are the text's, exactly.

        Special tokens spelled out in the text are read as ordinary text, which is all a response can hold.
        """
        ids = self._plain.encode(self._guard + text, add_special_tokens=False).ids
        if self._guard:
            ids = _without_head(ids, [self.bytes_of.get(i, b"") for i in ids], self._guard.encode())
        if b"".join(self.bytes_of.get(i, b"") for i in ids) != text.encode():
            raise ValueError(
                f"the tokenizer {self.tokenizer.name_or_path!r} cannot spell the response {text[:40]!r} ... byte by "
                "byte (its normaliser or an unknown token changes it), so texts from a server cannot be given ids; "
                "use teacher=hf, or a server that gives token ids"
            )
        return ids

    def spell_part(self, spelling: bytes) -> list[int]:
        """A piece of a response by itself: one id where there is one, else the tokenizer's own."""
        ids = self.ids_of.get(spelling, [])
        return ids if len(ids) == 1 else self.spell(spelling.decode())

    def prompt(self, ids: list[int]) -> str:
        """The raw text of a chat-templated prompt, special tokens written out."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    @cached_property
    def _plain(self) -> Tokenizer:
        """A copy that neither normalises (a byte-level one needs none) nor sees special tokens in ordinary text."""
        return plain_copy(json.loads(self.tokenizer.backend_tokenizer.to_str()), self._byte_level)

    @cached_property
    def _guard(self) -> str:
        """SentencePiece may put a word mark before the first word of a text; behind a line break it does not."""
        first = self._plain.encode("a", add_special_tokens=False).ids[0]
        return "\n" if self.bytes_of.get(first, b"").startswith(b" ") else ""

    @cached_property
    def _byte_level(self) -> bool:
        parts = json.loads(self.tokenizer.backend_tokenizer.to_str())
        level = byte_level(parts)
        if level is not None:
            return level
        raise ValueError(
            f"the tokenizer {self.tokenizer.name_or_path!r} is neither byte-level nor SentencePiece, so the texts that "
            "a server sends cannot be matched to its ids; use teacher=hf"
        )

    @cached_property
    def _byte_tokens(self) -> set[int]:
        return {
            i for token, i in self.tokenizer.get_vocab().items() if not self._byte_level and BYTE_TOKEN.match(token)
        }


@lru_cache(maxsize=4)
def vocabulary_of(name: str) -> Vocabulary:
    """Of a model, by name; kept, because loading a tokenizer takes seconds."""
    tokenizer = load_tokenizer(name)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(
            f"the tokenizer of {name!r} is not of the fast kind, which texts from a server need; use teacher=hf"
        )
    return Vocabulary(tokenizer)


def is_text(spelling: bytes) -> bool:
    """Whether these bytes are whole characters."""
    try:
        spelling.decode()
    except UnicodeDecodeError:
        return False
    return True


def _inside(byte: int) -> bool:
    """Whether a UTF-8 character goes on with this byte."""
    return byte & 0xC0 == 0x80


def _whole_part(spelling: bytes) -> bytes | None:
    """What stands before the half character at the end; None where there is no such."""
    try:
        spelling.decode()
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            return spelling[: error.start]
    return None


def _without_head(ids: list[int], spellings: list[bytes], head: bytes) -> list[int]:
    """Drops the leading tokens that spell the guard (with the word mark that may stand before it)."""
    seen = b""
    for place, spelling in enumerate(spellings):
        if seen.lstrip(b" ") == head:
            return ids[place:]
        seen += spelling
    return [] if seen.lstrip(b" ") == head else ids
