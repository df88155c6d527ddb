"""A teacher's tokenizer beside a student's: texts are taken over, rows come back, and how much is known is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import Protocol, runtime_checkable

import numpy as np

from ekd.translate.reading import Reader
from ekd.translate.said import Said
from ekd.translate.spelling import Spelling
from ekd.translate.translation import KINDS, Translation, reader_of, translate, translate_said
from ekd.translate.whole import Whole, WordTable, table_of
from ekd.types import Failure, Request, Teacher, Trace

ALIGN = ("auto", "same", "bytes")


def check_align(align: str, bridge: object) -> None:
    if align not in ALIGN:
        raise ValueError(f"teacher.align is {', '.join(ALIGN[:-1])} or {ALIGN[-1]}, not {align!r}")
    if not isinstance(bridge, Bridge | None):
        raise ValueError(f"teacher.bridge is made for the student and not given: leave {bridge!r} out")


@runtime_checkable
class Translates(Teacher, Protocol):
    """A teacher that can say its rows over the ids of a student with another tokenizer."""

    align: str  # auto, same or bytes

    @property
    def own_tokenizer(self) -> str | None:
        """The model whose tokenizer it reads with; None: not known here."""

    def foreign(self) -> bool:
        """Asked where that is not known: whether what serves it says that its tokens are not the student's."""

    def bridged(self, bridge: Bridge) -> Teacher:
        """The same, with rows over the student's ids. Requests' prompts are in its own, given texts in the student's.

        Raises ValueError, one sentence, where it cannot.
        """


@dataclass(frozen=True, eq=False)
class Bridge:
    """teacher: None for a server that speaks text. ends: ids of the student's that close a text, its `end` among them.

    A text is read again by the student's own tokenizer, whatever it was written in: rows are of that reading.
    """

    teacher: Spelling | None
    student: Spelling
    ends: frozenset[int]
    bytes_by_kind: np.ndarray = field(default_factory=lambda: np.zeros(len(KINDS)), init=False)

    def asked(self, requests: Iterable[Request]) -> tuple[list[Request], list[Failure]]:
        """The same, given texts in the teacher's ids; and those whose text begins with what is none."""
        made: list[Request] = []
        failed: list[Failure] = []
        for request in requests:
            try:
                given = None if not request.response_ids else self.over(request.response_ids)
                made.append(request._replace(response_ids=given))
            except ValueError as error:
                failed.append(Failure(request.key, request.problem_id, str(error)))
        return made, failed

    def over(self, ids: Sequence[int]) -> list[int]:
        """A text of the student's as the teacher's own tokenizer reads its bytes; an end becomes the teacher's.

        A special token is no text, so what follows one is not read. Raises ValueError where nothing is left.
        """
        assert self.teacher is not None
        body = list(takewhile(self.student.text, ids))
        text = self.student.spell(body)
        read = list(self.teacher.cut([text])[0])
        if text and not read:
            raise ValueError(
                f"the teacher's tokenizer cannot write the text {text[:40].decode(errors='replace')!r} ... byte by "
                "byte, so the teacher cannot read it"
            )
        ended = len(ids) == len(body) + 1 and ids[-1] in self.ends
        if not read and not ended:
            raise ValueError(
                f"the text begins with the student's special token {ids[0]}, which the teacher's tokenizer cannot say"
            )
        return [*read, self.teacher.end] if ended else read

    def whole(self, mass: float, max_k: int) -> Whole:
        """For the rows of one answer, seen whole. Arguments: as the hf teacher's."""
        assert self.teacher is not None
        return Whole(self.teacher, self._reader, self._table, mass, max_k)

    def of_whole(self, trace: Trace, whole: Whole) -> Trace | Failure:
        return self._back(trace, lambda: whole.translate(trace, trace.prompt_ids))

    def of_ids(self, trace: Trace) -> Trace | Failure:
        """A trace over the teacher's ids, over the student's."""
        assert self.teacher is not None
        teacher = self.teacher
        return self._back(trace, lambda: translate(trace, teacher, self.student, trace.prompt_ids))

    def of_texts(self, trace: Trace, said: Said) -> Trace | Failure:
        """trace: gives key, problem, sample and finish."""
        reader = Reader(self.student, None, frozenset(said.words))
        return self._back(trace, lambda: translate_said(trace, said, reader, trace.prompt_ids))

    def _back(self, trace: Trace, make: Callable[[], Translation]) -> Trace | Failure:
        try:
            made = make()
        except ValueError as error:
            return Failure(trace.key, trace.problem_id, str(error))
        np.add(self.bytes_by_kind, made.bytes_by_kind(), out=self.bytes_by_kind)
        return made.trace

    def told(self, before: np.ndarray | int = 0) -> str:
        """The shares of bytes that were traced since `bytes_by_kind` was `before`."""
        made = self.bytes_by_kind - before
        total = max(float(made.sum()), 1.0)
        shares = (f"{100 * n / total:.1f}% {kind}" for n, kind in zip(made, KINDS, strict=True))
        return f"of the {total:,.0f} bytes traced, {', '.join(shares)}"

    @cached_property
    def _reader(self) -> Reader:
        assert self.teacher is not None
        return reader_of(self.teacher, self.student)

    @cached_property
    def _table(self) -> WordTable:
        assert self.teacher is not None
        return table_of(self.teacher, self._reader)
