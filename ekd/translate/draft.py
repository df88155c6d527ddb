"""Masses on a student's ids, gathered row by row, and the trace that they make."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ekd.models.tail import entropy_between, floored
from ekd.translate.said import LEAST
from ekd.types import Trace


@dataclass
class Draft:
    """came (m,): the student's reading of the answer; vocab: V."""

    came: np.ndarray
    vocab: int
    tail: np.ndarray = field(init=False)  # (m,) mass that no named id has
    doubt: np.ndarray = field(init=False)  # (m,) how far a named mass may be from the truth
    valid: np.ndarray = field(init=False)  # (m,)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.tail, self.doubt = np.zeros(len(self.came)), np.zeros(len(self.came))
        self.valid = np.zeros(len(self.came), bool)

    def add(self, rows: np.ndarray, ids: np.ndarray, mass: np.ndarray) -> None:
        self.parts.append((rows, ids, mass))

    def rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """counts (m,), ids, masses: a row's came first, the others by falling mass; an unmatched row has its came."""
        unmatched = np.flatnonzero(~self.valid)
        parts = [*self.parts, (unmatched, self.came[unmatched], np.ones(len(unmatched)))]
        row, ids, mass = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        kept = self.valid[row] | (np.arange(len(row)) >= len(row) - len(unmatched))
        row, ids, mass = row[kept].astype(np.int64), ids[kept].astype(np.int64), mass[kept]
        names, where = np.unique(row * self.vocab + ids, return_inverse=True)
        mass = np.bincount(where, mass, len(names))
        row, ids = np.divmod(names, self.vocab)
        order = np.lexsort((-mass, ids != self.came[row], row))
        return np.bincount(row, minlength=len(self.came)), ids[order], mass[order]


def cut(counts: np.ndarray, ids: np.ndarray, mass: np.ndarray, share: float, most: int) -> tuple[np.ndarray, ...]:
    """Rows as a trace keeps them: the came, and at most `most` others, until they hold `share`.

    -> counts, ids, masses, and what each row lost (m,).
    """
    row = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    place = np.arange(len(ids)) - first[row]
    before = np.cumsum(mass) - mass
    before = before - before[first][row]
    kept = (place == 0) | ((before < share) & (place <= most))
    lost = np.bincount(row[~kept], mass[~kept], len(counts))
    return np.bincount(row[kept], minlength=len(counts)), ids[kept], mass[kept], lost


def draft_trace(trace: Trace, prompt_ids: np.ndarray, draft: Draft, share: float = 1.0, most: int = 1 << 30) -> Trace:
    """trace: whose key, problem and end are kept. Entropies are the midpoints of their bounds."""
    counts, ids, mass, lost = cut(*draft.rows(), share, most)
    named = np.where(draft.valid, counts, 0)
    tail = draft.tail + lost
    log_tail = floored(np.log(np.maximum(tail, LEAST)), named, draft.vocab)
    log_tail[~draft.valid] = -np.inf
    logs = np.log(np.maximum(mass, LEAST))
    known = -np.bincount(np.repeat(np.arange(len(counts)), counts), mass * logs, len(counts))
    return trace._replace(
        prompt_ids=prompt_ids.astype(np.int32),
        response_ids=draft.came.astype(np.int32),
        counts=counts.astype(np.int32),
        ids=ids.astype(np.int32),
        logprobs=logs.astype(np.float32),
        log_tail=log_tail.astype(np.float32),
        entropy=np.where(draft.valid, entropy_between(known, log_tail, named, draft.vocab), 0).astype(np.float32),
        exact=False,
        valid=draft.valid,
        log_norm=np.empty((len(counts), 0), np.float32),
    )
