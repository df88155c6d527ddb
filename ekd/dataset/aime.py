"""The American Invitational Mathematics Examination: 30 problems a year, each answer an integer from 0 to 999."""

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

YEARS = (2024, 2025)
_HUB_SPLIT = {2024: "train", 2025: "test"}  # what HuggingFaceH4/aime_2024 and math-ai/aime25 call their one split


@dataclass(frozen=True, kw_only=True)
class Aime:
    """Only a test split: 30 problems are too few to learn from, and one is worth 3.3 points."""

    years: list[int]
    path: str | None
    hub_2024: str
    hub_2025: str

    def __post_init__(self) -> None:
        if not self.years or not set(self.years) <= set(YEARS) or len(set(self.years)) < len(self.years):
            raise ValueError(f"years is {self.years}; it must be a list of 2024, 2025 or both")

    @remembered
    def problems(self, split: str) -> list[Problem]:
        check_split("aime", split, ["test"])
        return [problem for year in self.years for problem in self._read(year)]

    def files(self) -> list[Path]:
        return [] if self.path is None else [Path(self.path).expanduser() / f"aime{y % 100}.jsonl" for y in self.years]

    def grade(self, problem: Problem, response: str) -> Verdict:
        return grade(problem.answer, response)

    def _read(self, year: int) -> list[Problem]:
        if self.path is not None:
            return read_file(Path(self.path).expanduser() / f"aime{year % 100}.jsonl")
        rows = load_rows({2024: self.hub_2024, 2025: self.hub_2025}[year], None, _HUB_SPLIT[year])
        return [
            Problem(f"aime{year}-{number}", text(row, "problem"), text(row, "answer").lstrip("0") or "0")
            for number, row in enumerate(rows, start=1)
        ]
