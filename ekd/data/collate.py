"""Traces -> a batch. Here is the only shift in the house."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ekd.models.prefix import Tree
from ekd.types import Batch, Rows, Trace


class Collate:
    """Traces -> Batch. vocab: V. norm: the column of log_norm at the training temperature, None for temperature 1.

    packing: one row, in which each sequence's positions start at 0: where they do, attention sees a border.
    """

    def __init__(self, vocab: int, norm: int | None = None, *, packing: bool = False, draws: bool = False) -> None:
        self.vocab, self.norm, self.packing, self.draws = vocab, norm, packing, draws

    def __call__(self, traces: Sequence[Trace]) -> Batch:
        # A causal model's output at position t is its guess for token t + 1. So inputs drop the last token, targets the
        # first, and the last prompt position (P - 1) is the first to predict a response token. Nowhere else is a shift.
        lengths = [len(t.prompt_ids) + len(t.response_ids) - 1 for t in traces]
        places, shape = layout(lengths, self.packing)
        ids, target, real, position = (np.zeros(shape, np.int64) for _ in range(4))
        mask = np.zeros(shape, bool)
        if not self.packing:
            position[:] = np.arange(shape[1])  # also under padding, which is no border
        for trace, length, (row, start) in zip(traces, lengths, places, strict=True):
            here, first = slice(start, start + length), start + len(trace.prompt_ids) - 1
            ids[row, here] = np.concatenate([trace.prompt_ids, trace.response_ids[:-1]])
            position[row, here] = np.arange(length)
            real[row, here] = 1
            mask[row, first : start + length] = True
            target[row, first : start + length] = trace.response_ids
        return Batch(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(real),
            position_ids=torch.from_numpy(position),
            target_ids=torch.from_numpy(target),
            mask=torch.from_numpy(mask),
            rows=self._rows(traces),
            shared=() if self.packing else Tree([t.prompt_ids[:-1].tolist() for t in traces], lengths).chains(),
        )

    def _rows(self, traces: Sequence[Trace]) -> Rows:
        sizes = [len(t.response_ids) for t in traces]
        ids, logprobs = wide(
            np.concatenate([t.counts for t in traces]),
            np.concatenate([t.ids for t in traces]),
            np.concatenate([t.logprobs for t in traces]),
            np.concatenate([t.log_tail for t in traces]),
        )
        end = np.zeros(sum(sizes), bool)
        for last, trace in zip(np.cumsum(sizes) - 1, traces, strict=True):
            end[last] = trace.finish == "stop"
        norm = [
            np.zeros(n) if self.norm is None else t.log_norm[:, self.norm] for n, t in zip(sizes, traces, strict=True)
        ]
        return Rows(
            sequence=torch.from_numpy(np.repeat(np.arange(len(traces)), sizes)),
            position=torch.from_numpy(np.concatenate([np.arange(n) for n in sizes])),
            length=torch.from_numpy(np.repeat(np.array(sizes), sizes)),
            target=torch.from_numpy(np.concatenate([t.response_ids for t in traces]).astype(np.int64)),
            end=torch.from_numpy(end),
            valid=torch.from_numpy(np.concatenate([t.valid for t in traces])),
            teacher_ids=torch.from_numpy(ids),
            teacher_logprobs=torch.from_numpy(logprobs),
            teacher_entropy=torch.from_numpy(np.concatenate([t.entropy for t in traces]).astype(np.float32)),
            log_norm=torch.from_numpy(np.concatenate(norm).astype(np.float32)),
            vocab=self.vocab,
            draws=self.draws,
            contrast=known_of(traces, [t.contrast for t in traces]),
            agreement=known_of(traces, [t.agreement for t in traces]),
            span=spans(traces),
            teachers=tuple(t.teacher for t in traces),
        )


def known_of(traces: Sequence[Trace], values: Sequence[np.ndarray | None]) -> torch.Tensor | None:
    """(R,) of a batch what only some traces have, NaN for the rows of one that has none; None where no trace has it."""
    pairs = zip(traces, values, strict=True)
    known = [np.full(len(t.response_ids), np.nan, np.float32) if value is None else value for t, value in pairs]
    return torch.from_numpy(np.concatenate(known)) if any(value is not None for value in values) else None


def spans(traces: Sequence[Trace]) -> torch.Tensor | None:
    """(R,) from 0, ascending: a span begins behind a place where tokens of teacher and student end together. A row
    without a teacher is a span of its own. None where some trace does not say where that is.
    """
    last = []  # whether a row is the last of its span
    for trace in traces:
        ends = np.ones(len(trace.valid), bool) if trace.ends is None else trace.ends.copy()
        if not ends[-1:].all():  # both read the same text to its end
            return None
        ends[:-1] |= ~(trace.valid[1:] & trace.valid[:-1])
        last.append(ends)
    behind = np.concatenate([[False], *last])[:-1]
    return torch.from_numpy(np.cumsum(behind))


def layout(lengths: Sequence[int], packing: bool) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Where each sequence starts, (row, column), and the shape of the batch."""
    if packing:
        starts = np.cumsum(lengths) - lengths
        return [(0, int(start)) for start in starts], (1, int(sum(lengths)))
    return [(row, 0) for row in range(len(lengths))], (len(lengths), max(lengths))


def wide(
    counts: np.ndarray, ids: np.ndarray, logprobs: np.ndarray, log_tail: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ragged rows -> ids (R, K) padded by -1, logprobs (R, K+1) padded by -inf, the tail last."""
    rows = np.repeat(np.arange(len(counts)), counts)
    columns = np.arange(len(ids)) - np.repeat(np.cumsum(counts) - counts, counts)
    wide_ids = np.full((len(counts), counts.max()), -1, np.int64)
    wide_ids[rows, columns] = ids
    wide_logprobs = np.full((len(counts), counts.max() + 1), -np.inf, np.float32)
    wide_logprobs[rows, columns] = logprobs
    wide_logprobs[:, -1] = log_tail
    return wide_ids, wide_logprobs
