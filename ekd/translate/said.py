"""What a teacher said at each of its tokens: words and their masses, whatever they were named by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ekd.translate.reading import END
from ekd.translate.spelling import Spelling
from ekd.types import Trace

UNKNOWN = b"\xff\xff\xff"  # a word of which nobody knows the bytes; no token has these
LEAST = 1e-300  # a mass whose logarithm is finite


class Rest(NamedTuple):
    """Of rows that were seen whole: what `Said` does not name, by the student's first token in it.

    True only where a token of the student's begins with the teacher's; elsewhere it is part of the tail.
    """

    starts: np.ndarray  # (n+1,)
    ids: np.ndarray  # the student's
    mass: np.ndarray
    tail: np.ndarray  # (n,) mass that is in none of them
    doubt: np.ndarray  # (n,) mass that may belong to another id than it does here, or to one where it has none

    def row(self, row: int) -> list[tuple[int, float]]:
        part = slice(self.starts[row], self.starts[row + 1])
        return list(zip(self.ids[part].tolist(), self.mass[part].tolist(), strict=True))


def no_rest(tail: np.ndarray) -> Rest:
    """Of rows that were not seen whole."""
    none = np.zeros(0)
    return Rest(np.zeros(len(tail) + 1, np.int64), none.astype(np.int64), none, tail, tail)


class Said(NamedTuple):
    """Ragged rows, as a trace has them: n tokens; the first entry of each row is the word that came."""

    words: list[bytes]  # distinct; END, UNKNOWN and b"" (no text at all) among them
    starts: np.ndarray  # (n+1,) where each row's entries begin
    entries: np.ndarray  # places in `words`
    mass: np.ndarray  # float64, of each entry
    tail: np.ndarray  # (n,) float64, what they leave
    valid: np.ndarray  # (n,) bool
    rest: Rest

    def came(self, row: int) -> bytes:
        return self.words[int(self.entries[self.starts[row]])]

    def row(self, row: int) -> tuple[list[bytes], list[float]]:
        """The words of a row and their masses."""
        part = slice(self.starts[row], self.starts[row + 1])
        return [self.words[i] for i in self.entries[part].tolist()], self.mass[part].tolist()

    def lengths(self) -> np.ndarray:
        """(n,) bytes of the words that came."""
        return np.array([len(self.came(row)) for row in range(len(self.tail))], np.int64)

    def text(self) -> bytes:
        """All words that came, END among them."""
        return b"".join(self.came(row) for row in range(len(self.tail)))

    def may_go_on(self, row: int, bytes_: frozenset[int]) -> float:
        """How likely the word of this row begins with one of these bytes, at most; 1 where nothing is known of it."""
        if not bytes_:
            return 0.0
        if row >= len(self.tail) or not self.valid[row]:
            return 1.0
        words, mass = self.row(row)
        may = sum(m for word, m in zip(words, mass, strict=True) if word in (b"", UNKNOWN) or word[0] in bytes_)
        return min(1.0, may + float(self.tail[row]))


def said_by_ids(trace: Trace, teacher: Spelling) -> Said:
    """A trace over the teacher's ids. Raises ValueError where its answer holds a token that is no text."""
    ids, entries = np.unique(trace.ids, return_inverse=True)
    ends = ends_of(trace, teacher)
    check_text(trace, teacher, ends)
    words = [END if i in ends else teacher.text(i) for i in ids.tolist()]
    starts, tail = np.concatenate([[0], np.cumsum(trace.counts)]), np.exp(trace.log_tail.astype(np.float64))
    mass = np.maximum(np.exp(trace.logprobs.astype(np.float64)), LEAST)
    return Said(words, starts, entries, mass, tail, trace.valid, no_rest(tail))


def ends_of(trace: Trace, teacher: Spelling) -> set[int]:
    """Ids that end a turn: the teacher's own, and the one that ended this answer."""
    return {teacher.end} | ({int(trace.response_ids[-1])} if trace.finish == "stop" else set())


def check_text(trace: Trace, teacher: Spelling, ends: set[int]) -> None:
    body = trace.response_ids[:-1] if trace.finish == "stop" else trace.response_ids
    silent = [i for i in body.tolist() if i in ends or not teacher.text(i)]
    if silent:
        raise ValueError(
            f"the answer of {trace.problem_id!r} holds the teacher's special token {silent[0]} before its end, which "
            "is no text and which the student's tokenizer cannot say"
        )


class Named(NamedTuple):
    """A token as a server without ids names it."""

    text: bytes
    logprob: float
    top: Sequence[tuple[bytes, float]]  # by falling probability, the token itself perhaps among them; b"": no name


def said_by_texts(rows: Sequence[Named], *, stopped: bool, valid: Sequence[bool] | None = None) -> Said:
    """stopped: the answer ended by itself; its end, which such a server does not describe, is a row without a
    distribution. valid: which rows are what they say (a server may have merged tokens); None: all.

    A name may stand for several tokens (b"" and U+FFFD, for any half of a character), so such mass is nobody's.
    """
    place: dict[bytes, int] = {}
    counts, entries, mass, tail = [], [], [], []
    for text, logprob, top in rows:
        names = [(text, logprob), *((other, value) for other, value in top if other != text)]
        names = [(UNKNOWN if not name or "\ufffd".encode() in name else name, value) for name, value in names]
        names[0] = text, logprob
        entries += [place.setdefault(name, len(place)) for name, _ in names]
        some = np.maximum(np.exp([value for _, value in names]), LEAST)
        mass.append(some)
        counts.append(len(names))
        tail.append(max(0.0, 1.0 - float(some.sum())))
    sound = [True] * len(rows) if valid is None else list(valid)
    if stopped:
        entries.append(place.setdefault(END, len(place)))
        mass.append(np.ones(1))
        counts, tail, sound = [*counts, 1], [*tail, 0.0], [*sound, False]
    starts = np.concatenate([[0], np.cumsum(counts)])
    left = np.array(tail)
    return Said(
        list(place), starts, np.array(entries), np.concatenate(mass), left, np.array(sound, bool), no_rest(left)
    )
