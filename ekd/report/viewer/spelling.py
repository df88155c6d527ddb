"""Ids as text for a reader: pieces that join to the response, whatever the tokenizer cut in half."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ekd.models.token_kinds import kind_of
from ekd.teacher.wire.vocabulary import Vocabulary

TEXT, BYTES, SPECIAL, UNKNOWN = range(4)  # forms of a token, see `ViewerSpelling.token`


class ViewerSpelling(NamedTuple):
    bytes_of: Mapping[int, bytes]  # every id that stands for text
    names: Mapping[int, str]  # the others: an end token, a role mark

    def token(self, i: int) -> tuple[int, str]:
        """Form and name: text; the hex digits of half a character; a special token's name; "" for an id without one."""
        spelt = self.bytes_of.get(i)
        if spelt is None:
            return (SPECIAL, self.names[i]) if i in self.names else (UNKNOWN, "")
        try:
            return TEXT, spelt.decode()
        except UnicodeDecodeError:
            return BYTES, spelt.hex()

    def kind(self, i: int) -> str:
        """As `ekd.models.token_kinds` says it: digits, words ...; half a character is other, a mark what it spells."""
        return kind_of(self.names.get(i, "") if i not in self.bytes_of else self.text([i]))

    def text(self, ids: Iterable[int]) -> str:
        """What a person reads: special tokens left out."""
        return b"".join(self.bytes_of.get(i, b"") for i in ids).decode(errors="replace")

    def stretches(self, ids: Sequence[int]) -> list[str]:
        """Text between special tokens, and these by their names, in turn: joined, the whole text."""
        out, begin = [""], 0
        for at, i in enumerate(ids):
            if i not in self.bytes_of:
                out[-1] = self.text(ids[begin:at])
                out += [self.names.get(i, f"⟨{i}⟩"), ""]
                begin = at + 1
        out[-1] = self.text(ids[begin:])
        return out


def viewer_spelling(tokenizer: PreTrainedTokenizerBase, name: str) -> ViewerSpelling:
    """Raises ValueError for a tokenizer that does not say what its ids spell."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(f"the tokenizer of {name!r} is not of the fast kind, which alone says what its ids spell")
    special = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return ViewerSpelling(Vocabulary(tokenizer).bytes_of, special)


def question(stretches: Sequence[str], instruction: str) -> str:
    """The last thing that was asked, as well as a chat template lets see: for a list and a search, never for grading.

    It is the last stretch with the instruction that ekd puts after every question, or the longer of the last two.
    """
    texts = [text for text in stretches[::2] if text.strip()]
    asked = [text for text in texts if instruction and instruction in text] or [max(texts[-2:], key=len, default="")]
    text = asked[-1].strip().removeprefix("user\n")
    return text.removesuffix(instruction).strip() if instruction else text
