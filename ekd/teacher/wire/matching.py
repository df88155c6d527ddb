"""From the texts that a server names its tokens by to the student tokenizer's ids. Never a guess.

A server that gives no ids may also merge tokens, drop halves of characters, or speak another tokenizer. So a row is
valid only where the teacher's token covers the same bytes of the response with the same id as the student tokenizer's
own reading of the whole response, and where every id before it is the one that the teacher saw. Everything else is a
unmatched row: it knows its token and nothing more.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from ekd.teacher.wire.rows import Row
from ekd.teacher.wire.vocabulary import Vocabulary, is_text
from ekd.types import Failure, Trace

ENOUGH = 200  # rows that tell a foreign tokenizer
ROUNDING = 1e-6  # nats
MANY = 8  # failures that tell a teacher that cannot work

log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """One token as the server names it."""

    spelling: bytes
    logprob: float
    top: list[tuple[bytes, float]]  # the most likely tokens, by falling probability; b"" = a token without a name


def align_entries(
    entries: Sequence[Entry], text: str, tokens: int | None, vocabulary: Vocabulary
) -> tuple[list[int], list[Row | None]]:
    """The response's ids and a row for each.

    tokens: how many the server says it made, without the end token; None where it does not say. Wherever a text has
    exactly one id, that is what the teacher saw, and it is kept. The rest are holes (several tokens came as one text,
    as halves of characters do) and are read again. The teacher may have written a hole in another way, and every
    later row is conditioned on it: those are unmatched, unless the count of tokens leaves no other way of writing it.
    """
    spelled = vocabulary.spell(text)
    readable = all(entry.spelling in vocabulary.id_of or is_text(entry.spelling) for entry in entries)
    if not readable or b"".join(entry.spelling for entry in entries) != text.encode():
        return spelled, [None] * len(spelled)
    holes, certain = _holes(entries, tokens, vocabulary)
    reading = set(zip(_starts([vocabulary.bytes_of[i] for i in spelled]), spelled, strict=True))
    ids: list[int] = []
    rows: list[Row | None] = []
    known = True
    for n, (start, entry) in enumerate(zip(_starts([entry.spelling for entry in entries]), entries, strict=True)):
        if n in holes:
            known &= certain
            ids += holes[n]
            rows += [None] * len(holes[n])
            continue
        own = vocabulary.id_of[entry.spelling]
        ids.append(own)
        rows.append(_row(entry, vocabulary) if known and (start, own) in reading and _possible(entry) else None)
    return ids, rows


def _holes(entries: Sequence[Entry], tokens: int | None, vocabulary: Vocabulary) -> tuple[dict[int, list[int]], bool]:
    """Entries that are not one token with one id, with the ids for each; whether these are certainly the teacher's.

    They are where as many tokens are missing as the holes need at the least, and each can be written with so few in one
    way only: then nothing else can hide a token, and no hole be written otherwise.
    """
    missing = None if tokens is None else tokens - len(entries)
    holes = {
        n: vocabulary.fewest(entry.spelling)
        for n, entry in enumerate(entries)
        if entry.spelling not in vocabulary.id_of or (missing != 0 and not _possible(entry))
    }
    found = {n: ids for n, ids in holes.items() if ids is not None}
    if len(found) == len(holes) and sum(len(ids) - 1 for ids in found.values()) == missing:
        return found, True
    # Where it is not known whether tokens are missing, one may at most be inside a character.
    doubted = (e for e in enumerate(entries) if missing or (missing is None and not e[1].spelling.isascii()))
    unshown = [n for n, entry in doubted if not _shown(entry)]
    return {n: vocabulary.spell_part(entries[n].spelling) for n in {*holes, *unshown}}, False


def believable(entries: Sequence[Entry], missing: int | None) -> list[bool]:
    """Which entries are one token each, with its own logprob, where no vocabulary tells. missing: tokens that were made
    and have no entry, None where the server does not say: each hides in an entry that its own list does not show.
    """
    return [_shown(entry) or (missing == 0 and _possible(entry)) for entry in entries]


def nameless_end(top: Sequence[tuple[bytes, float]], vocabulary: Vocabulary) -> Row | None:
    """The end token's row, from the list at its place, where a server writes it as "" and says that it was chosen.

    Other tokens may be "" too (other role marks, halves of characters). It is known where it is the only such one, or
    the most likely of all; else None, an unmatched row.
    """
    nameless = [logprob for spelling, logprob in top if not spelling]
    if not nameless or (len(nameless) > 1 and top[0][0]):
        return None
    return _row(Entry(b"", nameless[0], list(top)), vocabulary)


def vet(answers: Iterable[Trace | Failure], limit: float) -> Iterator[Trace | Failure]:
    """Passes answers on, but none before ENOUGH rows showed that the teacher's tokens are the student's.

    limit: the largest share of unmatched rows (end tokens apart). Raises ValueError above it, or when the first MANY
    requests all failed; then nothing was passed on.
    """
    share = _Share()
    held: list[Trace | Failure] = []
    stream = iter(answers)
    for answer in stream:
        held.append(answer)
        share.add(answer)
        if share.rows >= ENOUGH:
            break
        if isinstance(answer, Failure) and len(held) >= MANY and not share.rows:
            raise ValueError(f"the first {len(held)} requests all failed; the last one: {answer.reason}")
    if share.unmatched > limit * share.rows:
        raise ValueError(
            f"{share.unmatched} of the first {share.rows} tokens of the teacher ({share.told()[2]:.0f}%, limit "
            f"{limit:.0%}) are not tokens of the student's tokenizer: they are most likely of different families. "
            "Choose a student of the teacher's family, or translate (teacher.align=bytes), or, if these texts are full "
            "of emoji or rare scripts, raise teacher.max_unmatched"
        )
    yield from held
    for answer in stream:
        share.add(answer)
        yield answer
    log.info("%d tokens traced; %d of them (%.2f%%) without a teacher row, end tokens apart", *share.told())


class _Share:
    """How many rows are unmatched, end tokens apart."""

    def __init__(self) -> None:
        self.rows = self.unmatched = 0

    def add(self, answer: Trace | Failure) -> None:
        if isinstance(answer, Trace):
            body = answer.valid[:-1] if answer.finish == "stop" else answer.valid
            self.rows += len(body)
            self.unmatched += int((~body).sum())

    def told(self) -> tuple[int, int, float]:
        return self.rows, self.unmatched, 100 * self.unmatched / max(self.rows, 1)


def _starts(spellings: list[bytes]) -> list[int]:
    return [0, *accumulate(map(len, spellings))][:-1]


def _shown(entry: Entry) -> bool:
    """Whether its own list shows the entry's token with the entry's logprob: then it is that token's."""
    return any(
        spelling == entry.spelling and abs(logprob - entry.logprob) < ROUNDING for spelling, logprob in entry.top
    )


def _possible(entry: Entry) -> bool:
    """Whether this logprob can be this token's: its list shows it, or ends above it without that token."""
    absent = all(spelling != entry.spelling for spelling, _ in entry.top)
    return _shown(entry) or (absent and (not entry.top or entry.logprob <= entry.top[-1][1] + ROUNDING))


def _row(entry: Entry, vocabulary: Vocabulary) -> Row:
    """Alternatives that have no id, or may be of several, stay in the tail."""
    find, ambiguous = vocabulary.id_of.get, vocabulary.ambiguous
    named = [(i, p) for spelling, p in entry.top if spelling not in ambiguous and (i := find(spelling)) is not None]
    ids = [i for i, _ in named]
    if len(set(ids)) < len(ids):
        named = [(i, logprob) for i, logprob in named if ids.count(i) == 1]
    return Row(entry.logprob, [i for i, _ in named], [logprob for _, logprob in named])
