"""A teacher's rows as rows over the ids of a student that cuts the same bytes in other places.

A row answers: given that a token of the student's begins at this byte, behind what the teacher read, which one is it?
What came keeps its probability: between ends that both readings share, its logprobs have the same sum on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ekd.translate.alignment import align
from ekd.translate.branches import walk
from ekd.translate.draft import Draft, draft_trace
from ekd.translate.reading import END, LIKELY, OPEN, SURE, Reader
from ekd.translate.said import UNKNOWN, Rest, Said, said_by_ids
from ekd.translate.spelling import Spelling
from ekd.types import Trace

EXACT = 1e-3  # a row whose masses are at most so far from the truth is exact: as far as mass=0.999 cuts a row
KINDS = ("exact", "bounded", "unmatched")


class Translation(NamedTuple):
    """rows of `trace`: what is known of them."""

    trace: Trace
    doubt: np.ndarray  # (m,) no named probability is further from the truth than this; 1 where a row is unmatched
    lengths: np.ndarray  # (m,) bytes of each token, 0 of the end

    def kinds(self, exact: float = EXACT) -> np.ndarray:
        """(m,) places in KINDS."""
        return np.where(self.trace.valid, np.where(self.doubt <= exact, 0, 1), 2)

    def bytes_by_kind(self, exact: float = EXACT) -> np.ndarray:
        """(3,) how many bytes lie in rows of each kind."""
        return np.bincount(self.kinds(exact), self.lengths, len(KINDS))


def translate(
    trace: Trace, teacher: Spelling, student: Spelling, prompt_ids: np.ndarray, *, least: float = 0.1
) -> Translation:
    """prompt_ids: the same prompt as the student's template renders it. least: a row is unmatched where the teacher
    named less than this share under the bytes that are behind us inside its token.

    Where an id means the same to both, rows come back as they are, bit for bit.
    """
    if teacher.same(student):
        same = trace._replace(prompt_ids=prompt_ids.astype(np.int32))
        lengths = np.array([len(student.texts[i]) for i in trace.response_ids.tolist()], np.int64)
        return Translation(same, np.where(trace.valid, 0.0, 1.0), lengths)
    said = said_by_ids(trace, teacher)
    return translate_said(trace, said, reader_of(teacher, student), prompt_ids, least=least)


@lru_cache(maxsize=4)
def reader_of(teacher: Spelling, student: Spelling) -> Reader:
    """Kept, because what it learnt of the words is wanted again."""
    return Reader(student, teacher)


def translate_said(
    trace: Trace,
    said: Said,
    reader: Reader,
    prompt_ids: np.ndarray,
    *,
    least: float = 0.1,
    mass: float = 1.0,
    max_k: int = 1 << 30,
) -> Translation:
    """trace: gives its key, problem, sample and finish. mass, max_k: where a row is cut, as the hf teacher cuts its."""
    came, words = reread(said, reader.student)
    alignment = align(said.lengths(), np.array([len(word) for word in words]))
    draft = Draft(came, len(reader.student.texts))
    equal_rows(draft, reader, said, alignment.equal_teacher, alignment.equal_student)
    for span in alignment.spans:
        walk(draft, reader, said, span, words, least)
    lengths = np.array([len(word) if word != END else 0 for word in words], np.int64)
    doubt = np.where(draft.valid, draft.doubt, 1.0)
    made = draft_trace(trace, prompt_ids, draft, mass, max_k)._replace(ends=alignment.ends)
    return Translation(made, doubt, lengths)


def reread(said: Said, student: Spelling) -> tuple[np.ndarray, list[bytes]]:
    """The student's own reading of the answer: ids (m,) and the bytes of each. Raises ValueError where it has none."""
    text = said.text()
    body = text.removesuffix(END)
    ids = list(student.cut([body])[0])
    if body and not ids:
        raise ValueError(
            f"the student's tokenizer cannot write the teacher's answer {body[:40].decode(errors='replace')!r} "
            "... byte by byte, so no row of it can be translated"
        )
    words = [student.texts[i] for i in ids]
    if body != text:
        ids, words = [*ids, student.end], [*words, END]
    return np.array(ids, np.int32), words


def equal_rows(draft: Draft, reader: Reader, said: Said, rows: np.ndarray, own: np.ndarray) -> None:
    """Fills the rows `own` (E,) of the draft, whose tokens cover the same bytes as the teacher's `rows` (E,)."""
    sound = said.valid[rows]
    rows, own = rows[sound], own[sound]
    where, part = ragged(said.starts, rows)
    entry, mass = said.entries[part], said.mass[part]
    first, fate = lookup(reader, said.words, np.unique(entry))
    ids, fates, came = first[entry], fate[entry], draft.came[own]
    begins = np.concatenate([[0], np.cumsum(np.diff(said.starts)[rows])])[:-1]
    is_came = np.zeros(len(entry), bool)
    is_came[begins] = True
    ids = np.where(is_came, came[where], ids)
    # Another word that begins with the token that came is not what came: it would change the sum of logprobs.
    left = ~is_came & ((fates >= OPEN) | (ids == came[where]))
    doubted = ~is_came & ((fates == LIKELY) | (fates == OPEN) | (left & (fates == SURE)))
    count, rest = len(rows), said.rest
    draft.add(own[where[~left]], ids[~left], mass[~left])
    draft.tail[own] = rest.tail[rows] + np.bincount(where[left], mass[left], count)
    doubt = rest.doubt[rows] + np.bincount(where[doubted], mass[doubted], count)
    draft.doubt[own] = np.minimum(1.0, doubt + mass[begins] * may_go_on(reader, said, rows))
    draft.valid[own] = True
    _share_rest(draft, rest, rows, own)


def _share_rest(draft: Draft, rest: Rest, rows: np.ndarray, own: np.ndarray) -> None:
    where, part = ragged(rest.starts, rows)
    ids, mass = rest.ids[part], rest.mass[part]
    left = ids == draft.came[own][where]
    draft.add(own[where[~left]], ids[~left], mass[~left])
    lost = np.bincount(where[left], mass[left], len(rows))
    draft.tail[own] += lost
    draft.doubt[own] = np.minimum(1.0, draft.doubt[own] + lost)


def ragged(starts: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The entries of some rows, flat: which of `rows` each belongs to, and where it lies."""
    sizes = np.diff(starts)[rows]
    where = np.repeat(np.arange(len(rows)), sizes)
    return where, np.arange(len(where)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + starts[rows][where]


def lookup(reader: Reader, words: Sequence[bytes], some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(W,) the student's first token in each of `some` words, -1 where there is none, and its fate."""
    first, fate = np.full(len(words), -1, np.int64), np.full(len(words), OPEN)
    reader.learn(words[i] for i in some if words[i] != UNKNOWN)
    for i in some.tolist():
        if words[i] != UNKNOWN:
            first[i], fate[i] = next(iter(reader.cut(words[i])), -1), reader.fate(words[i])
    return first, fate


def may_go_on(reader: Reader, said: Said, rows: np.ndarray) -> np.ndarray:
    """(E,) how likely the student's token would have been a longer one than the word that came, at most."""
    found = np.zeros(len(rows))
    for place, row in enumerate(rows.tolist()):
        word = said.came(row)
        if word != END and reader.fate(word) != SURE:
            found[place] = said.may_go_on(row + 1, reader.goes_apart(word))
    return found
