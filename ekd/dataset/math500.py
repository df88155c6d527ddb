"""MATH-500: 500 competition problems with answers in LaTeX (Lightman et al., arXiv 2305.20050)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ekd.dataset.grading import grade
from ekd.dataset.hub import load_rows
from ekd.dataset.jsonl import read_file
from ekd.dataset.lines import text
from ekd.dataset.reading import remembered
from ekd.dataset.splits import check_split
from ekd.types import Problem, Verdict


@dataclass(frozen=True, kw_only=True)
class Math500:
    """Only a test split."""

    path: str | None
    hub: str

    @remembered
    def problems(self, split: str) -> list[Problem]:
        check_split("math500", split, ["test"])
        if self.path is not None:
            return read_file(self.files()[0])
        return [
            Problem(
                text(row, "unique_id"), text(row, "problem"), text(row, "answer"), text(row, "solution", optional=True)
            )
            for row in load_rows(self.hub, None, "test")
        ]

    def files(self) -> list[Path]:
        return [] if self.path is None else [Path(self.path).expanduser() / "test.jsonl"]

    def grade(self, problem: Problem, response: str) -> Verdict:
        return grade(problem.answer, response)
