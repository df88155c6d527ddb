"""Two readings of the same bytes: where their tokens end together, and what lies between."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Span(NamedTuple):
    """Tokens of both sides between two neighbouring common ends: firsts and lasts + 1."""

    teacher: int
    teacher_stop: int
    student: int
    student_stop: int


class Alignment(NamedTuple):
    equal_teacher: np.ndarray  # (E,) tokens that cover the same bytes as ...
    equal_student: np.ndarray  # (E,) ... these
    spans: list[Span]  # everything else
    ends: np.ndarray  # (m,) bool, where a token of the teacher's ends with the student's


def align(teacher: np.ndarray, student: np.ndarray) -> Alignment:
    """Lengths in bytes of each side's tokens, of the same text."""
    ends, other = np.cumsum(teacher), np.cumsum(student)
    common = np.intersect1d(ends, other)
    stop, other_stop = np.searchsorted(ends, common, "right"), np.searchsorted(other, common, "right")
    start, other_start = np.concatenate([[0], stop[:-1]]), np.concatenate([[0], other_stop[:-1]])
    equal = (stop - start == 1) & (other_stop - other_start == 1)
    rest = np.stack([start, stop, other_start, other_stop], 1)[~equal]
    spans = [Span(*map(int, one)) for one in rest]
    return Alignment(start[equal], other_start[equal], spans, np.isin(other, ends))
