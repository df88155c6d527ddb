"""This process asks one teacher."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ekd.engine.crew import Claim, answers, opened
from ekd.types import Failure, Teacher, Trace


@dataclass(frozen=True)
class Local:
    """Loads the teacher here and keeps it until the end of the block."""

    @contextmanager
    def open(self, teacher: Teacher, *, again: bool) -> Iterator[Alone]:
        with opened(teacher) as warm:
            yield Alone(warm, again)


@dataclass(frozen=True)
class Alone:
    """A crew of one."""

    teacher: Teacher
    again: bool
    note: str = ""

    def trace(self, claim: Claim) -> Iterator[Trace | Failure]:
        return answers(self.teacher, claim, again=self.again)
