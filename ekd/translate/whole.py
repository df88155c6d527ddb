"""Rows of a teacher that is seen whole: its V log-probabilities, summed by the student's tokens before they are cut."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ekd.translate.reading import END, LIKELY, OPEN, Reader
from ekd.translate.said import LEAST, Rest, Said, check_text, ends_of
from ekd.translate.spelling import Spelling
from ekd.translate.translation import Translation, lookup, translate_said
from ekd.types import Trace

NAMED = 1e-4  # words at least so likely are followed one by one ...
MOST_NAMED = 128  # ... but at most so many of a row
FAINT = 1e-7  # less likely words are not looked at: at the most V times as much is added to the tail
LOG_FAINT = math.log(FAINT)


class WordTable(NamedTuple):
    """Of each of the teacher's V ids, at a place where a student's token begins, too."""

    words: list[bytes]
    firsts: np.ndarray  # (U,) the student's tokens that words begin with
    first: np.ndarray  # (V,) which of them; U where there is none
    doubted: np.ndarray  # (V,) float32, 1 where that may be another


def table_of(teacher: Spelling, reader: Reader) -> WordTable:
    words = [END if i == teacher.end else text for i, text in enumerate(teacher.texts)]
    first, fate = lookup(reader, words, np.arange(len(words)))
    firsts = np.unique(first[fate < OPEN])
    place = np.where(fate < OPEN, np.searchsorted(firsts, first), len(firsts))
    return WordTable(words, firsts, place, np.isin(fate, (LIKELY, OPEN)).astype(np.float32))


@dataclass
class Whole:
    """Gathers the rows of one answer, some at a time (a generation gives them one by one), then translates them."""

    teacher: Spelling
    reader: Reader
    table: WordTable
    mass: float  # rows are cut as the hf teacher's are: ids until they hold this share ...
    max_k: int  # ... but at most so many
    rows: list[Seen] = field(default_factory=list, init=False)

    def add(self, log_p: np.ndarray, came: np.ndarray) -> None:
        """log_p (N, V or more) float32, came (N,): the next N tokens of the answer."""
        self.rows += [self._see(row, int(token)) for row, token in zip(log_p, came, strict=True)]

    def translate(self, trace: Trace, prompt_ids: np.ndarray, *, least: float = 0.1) -> Translation:
        """trace: gives key, problem, sample, finish and the teacher's response ids."""
        said = self._said(trace)
        return translate_said(trace, said, self.reader, prompt_ids, least=least, mass=self.mass, max_k=self.max_k)

    def _see(self, log_p: np.ndarray, came: int) -> Seen:
        seen = np.flatnonzero(log_p[: len(self.table.words)] >= LOG_FAINT)
        p = np.exp(log_p[seen].astype(np.float64))
        named = seen[_likeliest(p, NAMED, MOST_NAMED)]
        named = np.concatenate([[came], named[named != came]])
        mass = np.exp(log_p[named].astype(np.float64))
        where = np.searchsorted(seen, named).clip(max=len(seen) - 1)
        p[where[seen[where] == named]] = 0
        sums = np.bincount(self.table.first[seen], p, len(self.table.firsts) + 1)[:-1]
        firsts = self.table.first[named[named < len(self.table.words)]]
        some = np.union1d(_likeliest(sums, NAMED / 100, self.max_k), firsts[firsts < len(sums)])
        left, kept = max(0.0, 1.0 - float(mass.sum())), float(sums[some].sum())
        tail = max(0.0, left - kept)
        doubt = min(left, tail + float(p @ self.table.doubted[seen]))
        return Seen(named, mass, left, self.table.firsts[some], sums[some], tail, doubt)

    def _said(self, trace: Trace) -> Said:
        ends = ends_of(trace, self.teacher)
        check_text(trace, self.teacher, ends)
        seen = self.rows
        ids, entries = np.unique(np.concatenate([row.named for row in seen]), return_inverse=True)
        words = [END if i in ends else self.teacher.texts[i] for i in ids.tolist()]
        rest = Rest(
            _starts([len(row.ids) for row in seen]),
            np.concatenate([row.ids for row in seen]),
            np.concatenate([row.sums for row in seen]),
            np.array([row.tail for row in seen]),
            np.array([row.doubt for row in seen]),
        )
        return Said(
            words,
            _starts([len(row.named) for row in seen]),
            entries,
            np.maximum(np.concatenate([row.mass for row in seen]), LEAST),
            np.array([row.left for row in seen]),
            np.ones(len(seen), bool),
            rest,
        )


class Seen(NamedTuple):
    """One row: its likeliest words, and the others by the student's first token. See `Rest`."""

    named: np.ndarray  # the teacher's ids, what came first
    mass: np.ndarray
    left: float
    ids: np.ndarray  # the student's
    sums: np.ndarray
    tail: float
    doubt: float


def _likeliest(mass: np.ndarray, least: float, most: int) -> np.ndarray:
    """Where mass is at least `least`, `most` places at the most."""
    some = np.flatnonzero(mass >= least)
    return some if len(some) <= most else some[np.argpartition(-mass[some], most)[:most]]


def _starts(counts: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
