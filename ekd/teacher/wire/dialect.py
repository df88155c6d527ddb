"""What a server of the OpenAI kind is asked, and what it answers: one small class for each kind."""

from __future__ import annotations

import codecs
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

from ekd.teacher.wire.faults import Foreign, Refused
from ekd.teacher.wire.rows import Row
from ekd.teacher.wire.vocabulary import Vocabulary
from ekd.types import Request

Post = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]  # (path, body) -> answer; raises Fault or Refused


class WireSampling(NamedTuple):
    temperature: float
    top_p: float
    max_new_tokens: int
    top: int  # alternatives at each place


class Solved(NamedTuple):
    ids: list[int]
    rows: list[Row | None]
    finish: str  # "stop" (the end token is the last id) or "length"


class Dialect(Protocol):
    """model: as the server names it. Both calls raise Refused where the answer is of no use."""

    model: str
    vocabulary: Vocabulary

    async def generate(self, post: Post, request: Request, sampling: WireSampling) -> Solved: ...

    async def score(self, post: Post, request: Request, top: int) -> Solved: ...


def check_prompt(told: int | None, own: int) -> None:
    if told not in (None, own):
        raise Foreign(
            f"the teacher read the prompt as {told} tokens, the student's tokenizer as {own}: their tokenizers differ "
            "(choose a student of the teacher's family, or give teacher.align=bytes, which translates), or the server "
            "adds tokens of its own"
        )


def check_size(tokens: int, most: int) -> None:
    """tokens: of the answer; most: asked for, without the end token."""
    if tokens > most + 1:
        raise Refused(f"the server answered with {tokens} tokens where at most {most} were asked for")


def check_alternatives(given: Sequence[int], top: int) -> None:
    """given: how many alternatives came with each token. A few may be missing, a quarter of them not."""
    most, few = max(given, default=top), sum(n < 0.75 * top for n in given)
    if most < 0.75 * top:
        raise Refused(
            f"it gives {most} of the {top} alternatives asked for; give teacher.top={max(most, 1)}, or start "
            f"vLLM with --max-logprobs {top}"
        )
    if few:
        raise Refused(
            f"{few} of {len(given)} tokens came with as few as {min(given)} of the {top} alternatives asked for, as a "
            "server with speculative decoding gives them: start it without a draft model"
        )


def falling(pairs: Sequence[tuple[int, float]], logprob: float) -> Row:
    """(id, logprob) pairs in any order, and the token's own logprob."""
    ordered = sorted(pairs, key=lambda pair: -pair[1])
    return Row(logprob, [i for i, _ in ordered], [value for _, value in ordered])


def named(rows: Sequence[Row | None], top: int) -> list[Row | None]:
    """Rows that each name about as many ids as asked for; raises Refused where one does not."""
    check_alternatives([len(row.ids) for row in rows if row is not None], top)
    return list(rows)


def closed(ids: list[int], rows: list[Row | None], finish: str, vocabulary: Vocabulary) -> Solved:
    """Where the server left the end token out, it is appended as an unmatched row."""
    if finish == "stop" and (not ids or ids[-1] in vocabulary.bytes_of):
        return Solved([*ids, vocabulary.end], [*rows, None], finish)
    return Solved(ids, rows, finish)


def whole_characters(ids: Sequence[int], vocabulary: Vocabulary) -> list[bool]:
    """Whether the text so far ends with a whole character after each token."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    ends = []
    for i in ids:
        decoder.decode(vocabulary.bytes_of.get(i, b""))
        ends.append(not decoder.getstate()[0])
    return ends


def same_text(ids: Sequence[int], text: str, vocabulary: Vocabulary) -> bool:
    """Whether these ids spell this text with the student's tokenizer. Broken characters are not compared."""
    own = b"".join(vocabulary.bytes_of.get(i, b"") for i in ids).decode(errors="replace")
    return "\ufffd" in own + text or own.lstrip(" ") == text.lstrip(" ")
