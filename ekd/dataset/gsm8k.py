r"""GSM8K: 8,792 grade-school word problems with worked solutions (Cobbe et al., arXiv 2110.14168)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ekd.dataset.grading import grade
from ekd.dataset.hub import load_rows
from ekd.dataset.lines import Record, read_problems, text
from ekd.dataset.reading import remembered
from ekd.dataset.splits import SPLITS, carve, check_split, check_split_percent
from ekd.types import Problem, Verdict


@dataclass(frozen=True, kw_only=True)
class Gsm8k:
    """`test` is GSM8K's own; `val` is taken out of its training problems by the hash of the question."""

    path: str | None
    hub: str
    config: str
    val_percent: float

    def __post_init__(self) -> None:
        check_split_percent("val_percent", self.val_percent)

    @remembered
    def problems(self, split: str) -> list[Problem]:
        check_split("gsm8k", split, SPLITS)
        if split == "test":
            return self._read("test")
        return carve(self._read("train"), split, self.val_percent)

    def files(self) -> list[Path]:
        return [] if self.path is None else [self._file(name) for name in ("train", "test")]

    def grade(self, problem: Problem, response: str) -> Verdict:
        return grade(problem.answer, response)

    @remembered
    def _read(self, name: str) -> list[Problem]:
        def to_problem(record: Record, line: int) -> Problem:
            return _problem(f"gsm8k-{name}-{line}", record)

        if self.path is not None:
            return read_problems(self._file(name), to_problem)
        return [to_problem(row, line) for line, row in enumerate(load_rows(self.hub, self.config, name), start=1)]

    def _file(self, name: str) -> Path:
        return Path(self.path or "").expanduser() / f"{name}.jsonl"


def _problem(name: str, record: Record) -> Problem:
    steps, mark, last = text(record, "answer").rpartition("####")
    answer = last.strip().replace(",", "")
    if not mark or not answer:
        raise ValueError('"answer" does not end in "#### " and the final answer')
    steps = re.sub(r"<<[^<>]*>>", "", steps).strip()  # the calculator's notes, e.g. <<48/2=24>>
    return Problem(name, text(record, "question"), answer, f"{steps}\nThe answer is \\boxed{{{answer}}}.")
