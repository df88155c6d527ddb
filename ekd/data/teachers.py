"""Several teachers of one text as one: the mean of what they say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from ekd.data.taught import Taught
from ekd.store.store import Store
from ekd.types import Trace

Text = tuple[bytes, bytes]  # prompt and response, as ids


class Mean(Dataset[Trace]):
    """Texts that all stores hold, by their keys in the first, which also says who wrote them and how they were graded.

    Raises ValueError where there is no such text.
    """

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = stores
        found = [{text_of(store[key]): key for key in sorted(store.keys())} for store in stores]
        shared = set(found[0]).intersection(*found[1:])
        if not shared:
            raise ValueError(
                f"source.mean=true: {' and '.join(str(store.path) for store in stores)} have no text in common; let "
                "every teacher read the same ones (teacher.mode=score, or policy=student with the same student)"
            )
        self.places = {found[0][text]: [keys[text] for keys in found] for text in shared}

    def keys(self) -> list[str]:
        return sorted(self.places)

    def lengths(self) -> dict[str, tuple[int, int]]:
        """As those of a store: tokens of prompt and response."""
        return self.stores[0].lengths()

    def seen(self) -> list[Taught]:
        """The texts that all hold, as each teacher read them."""
        return [Taught(store, [self.places[key][at] for key in self.keys()]) for at, store in enumerate(self.stores)]

    def __getitem__(self, key: str) -> Trace:
        kept = zip(self.stores, self.places[key], strict=True)
        return mean_trace([store[own] for store, own in kept], drawn=self.stores[0].layout.draws > 0)


def text_of(trace: Trace) -> Text:
    return trace.prompt_ids.tobytes(), trace.response_ids.tobytes()


class Coarse(NamedTuple):
    """One teacher's rows on some of the ids, the rest in the tail."""

    cell: np.ndarray  # which of the ids
    p: np.ndarray
    tail: np.ndarray  # (n,)
    entropy: np.ndarray  # (n,) on these categories; 0 where it does not know the row


def mean_trace(traces: Sequence[Trace], *, drawn: bool) -> Trace:
    """p(j) = sum_i p_i(j) / N over the teachers i that know a row, for the ids j that all of these name.

    What only some of them name is in the tail, where each has it or a part of it: so the mean is exact on the
    categories that are left. drawn: rows are counts, which say 0 of what they do not name, so every id is kept.

    The entropy is the teachers' mean plus their Jensen-Shannon divergence on those categories: a lower bound. Their
    agreement is 1 less that divergence as a share of the largest there is, ln N; counts of draws have none.
    """
    first, n = traces[0], len(traces[0].response_ids)
    know = np.sum([t.valid for t in traces], 0)  # (n,) teachers that know a row
    width = 1 + max(int(t.ids.max(initial=0)) for t in traces)
    cells = shared_places([flat_places(t, width)[t.valid[rows_of(t)]] for t in traces], know, width, drawn=drawn)
    parts = [coarse(t, cells, width) for t in traces]
    row, among = cells // width, np.maximum(know, 1)
    p = np.sum([np.bincount(part.cell, part.p, len(cells)) for part in parts], 0) / among[row]
    tail = np.sum([part.tail for part in parts], 0) / among
    apart = np.maximum(entropy_of(row, p, tail) - np.sum([part.entropy for part in parts], 0) / among, 0)
    said = np.sum([np.where(t.valid, t.entropy, 0) for t in traces], 0) / among
    unknown = np.flatnonzero(know == 0)  # one entry, logprob 0, no tail
    row = np.concatenate([row, unknown])
    ids = np.concatenate([cells % width, first.response_ids[unknown]])
    p = np.concatenate([p, np.ones(len(unknown))])
    order = np.lexsort((-p, ids != first.response_ids[row], row))  # the token that came next first, then falling
    with np.errstate(divide="ignore"):
        log_p, log_tail = np.log(p[order]), np.log(tail)
    return first._replace(
        counts=np.bincount(row, minlength=n).astype(np.int32),
        ids=ids[order].astype(np.int32),
        logprobs=log_p.astype(np.float32),
        log_tail=log_tail.astype(np.float32),
        entropy=np.where(know > 0, said + apart, 0).astype(np.float32),
        exact=False,
        valid=know > 0,
        log_norm=np.zeros((n, 0), np.float32),
        teacher_prompt_ids=None,
        contrast=None,
        ends=shared_ends([t.ends for t in traces if t.ends is not None]),
        agreement=None if drawn else (1 - apart / np.log(np.maximum(know, 2))).clip(0).astype(np.float32),
        teacher=" + ".join(dict.fromkeys(t.teacher for t in traces)),
    )


def shared_ends(some: Sequence[np.ndarray]) -> np.ndarray | None:
    """Where tokens of all teachers end; of those whose tokenizer is the student's, that is everywhere."""
    return np.logical_and.reduce(some) if some else None


def rows_of(trace: Trace) -> np.ndarray:
    """(sum counts,) which row an entry is of."""
    return np.repeat(np.arange(len(trace.counts)), trace.counts)


def flat_places(trace: Trace, width: int) -> np.ndarray:
    """(sum counts,) row * width + id, a number for each row's id."""
    found: np.ndarray = rows_of(trace) * width + trace.ids
    return found


def shared_places(some: Sequence[np.ndarray], know: np.ndarray, width: int, *, drawn: bool) -> np.ndarray:
    """Ascending places that all teachers name who know the row; drawn: that any does."""
    cells, named = np.unique(np.concatenate(some), return_counts=True)
    return cells if drawn else cells[named == know[cells // width]]


def coarse(trace: Trace, cells: np.ndarray, width: int) -> Coarse:
    row, place, n = rows_of(trace), flat_places(trace, width), len(trace.counts)
    p = np.where(trace.valid[row], np.exp(trace.logprobs.astype(np.float64)), 0)
    kept = np.isin(place, cells) & trace.valid[row]
    # added up, not 1 less the others: that would be noise where these hold nearly all
    tail = np.exp(trace.log_tail.astype(np.float64)) + np.bincount(row[~kept], p[~kept], n)
    return Coarse(np.searchsorted(cells, place[kept]), p[kept], tail, entropy_of(row[kept], p[kept], tail))


def entropy_of(row: np.ndarray, p: np.ndarray, tail: np.ndarray) -> np.ndarray:
    """(n,) of the named categories and the tail."""
    entropy: np.ndarray = np.bincount(row, minus_p_log_p(p), len(tail)) + minus_p_log_p(tail)
    return entropy


def minus_p_log_p(p: np.ndarray) -> np.ndarray:
    return -p * np.log(np.where(p > 0, p, 1))
