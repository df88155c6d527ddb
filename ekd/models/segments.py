"""Segments: which rows compete with which, and which are worked on together. Sorts and ranks in every sequence at once,
without a loop.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class Segments(NamedTuple):
    """R rows in S segments (one for each sequence, or a single one for the whole batch)."""

    member: Tensor  # (R,) the segment of each row, ascending from 0 without gaps
    size: Tensor  # (S,) rows of each segment, at least 1
    start: Tensor  # (S,) its first row


def segments(sequence: Tensor, scope: str = "sequence") -> Segments:
    """sequence (R,) ascending, gaps allowed -> its runs; `scope="batch"` makes one run of all rows."""
    if scope == "batch":
        sequence = torch.zeros_like(sequence)
    _, member, size = torch.unique_consecutive(sequence, return_inverse=True, return_counts=True)
    return Segments(member, size, size.cumsum(0) - size)


def by_score(score: Tensor, runs: Segments, descending: bool = True) -> Tensor:
    """(R,) row numbers, segment after segment, each sorted by score; ties stay in order of position."""
    order = torch.argsort(score, descending=descending, stable=True)
    return order[torch.argsort(runs.member[order], stable=True)]


def rank(score: Tensor, runs: Segments, descending: bool = True) -> Tensor:
    """(R,) place of each row in its segment, 0 = highest (or lowest); ties go to the earliest position."""
    order = by_score(score, runs, descending)
    place = torch.empty_like(order)
    place[order] = torch.arange(order.numel(), device=order.device) - runs.start[runs.member]
    return place


def by_segment(value: Tensor, runs: Segments, how: str) -> Tensor:
    """value (R,) -> (S,): how is sum, amax or amin."""
    blank = value.new_zeros(len(runs.size))
    return blank.scatter_reduce(0, runs.member, value, how, include_self=False)


def chunks(count: int, most: int, span: Tensor | None = None) -> list[slice]:
    """As few as can be, nearly equal; one empty chunk where there is nothing. span: (count,), none is cut in two."""
    parts = max(1, math.ceil(count / most))
    edges = [count * i // parts for i in range(parts + 1)]
    if span is not None and count:
        begins = torch.cat([(span.diff() != 0).nonzero()[:, 0] + 1, span.new_tensor([count])])
        edges = [0, *begins[torch.searchsorted(begins, begins.new_tensor(edges[1:]))].unique().tolist()]
    return [slice(*edge) for edge in pairwise(edges)]
