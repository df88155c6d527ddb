"""Any dataset of the Hugging Face hub, or any folder that `datasets` can read, by the names of its columns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ekd.dataset.grading import extract, grade
from ekd.dataset.lines import Record, text
from ekd.dataset.reading import remembered
from ekd.dataset.splits import SPLITS, asked_once, carve, check_split, check_split_percent, without
from ekd.types import Problem, Verdict


@dataclass(frozen=True, kw_only=True)
class Hub:
    """A column may be a path into nested rows ("extra_info.question").

    Without a `val` split of its own, `val_percent` of the training problems (by the hash of the question) are val. A
    problem that a held-out split poses too is left out of the training split, with a warning.
    """

    name: str
    config: str | None
    revision: str | None
    train: str | None
    val: str | None
    test: str | None
    val_percent: float
    prompt_column: str
    answer_column: str | None
    solution_column: str | None

    def __post_init__(self) -> None:
        check_split_percent("val_percent", self.val_percent)
        if not self.answer_column and not self.solution_column:
            raise ValueError("answer_column and solution_column are both null; name the column that holds the answer")
        if not any((self.train, self.val, self.test)):
            raise ValueError(f"no split of {self.name} was named: set dataset.train, dataset.val or dataset.test")

    @remembered
    def problems(self, split: str) -> list[Problem]:
        check_split(self.name, split, self._has())
        problems = self._read(split)
        for held_out in SPLITS[SPLITS.index(split) + 1 :]:
            if held_out in self._has() and not (split == "train" and held_out == "val" and self._carves()):
                problems = without(problems, self._read(held_out), f"{self.name} {split}")
        return problems

    def files(self) -> list[Path]:
        return [file for file in Path(self.name).expanduser().rglob("*") if file.is_file()]

    def grade(self, problem: Problem, response: str) -> Verdict:
        return grade(problem.answer, response)

    def _carves(self) -> bool:
        return bool(self.train) and not self.val and self.val_percent > 0

    def _has(self) -> list[str]:
        named = {"train": self.train, "val": self.val or self._carves(), "test": self.test}
        return [split for split in SPLITS if named[split]]

    def _read(self, split: str) -> list[Problem]:
        if self._carves() and split in ("train", "val"):
            return carve(self._rows(self.train or ""), split, self.val_percent)
        return self._rows({"train": self.train, "val": self.val, "test": self.test}[split] or "")

    @remembered
    def _rows(self, theirs: str) -> list[Problem]:
        rows = load_rows(self.name, self.config, theirs, self.revision)
        read = [self._problem(f"{theirs}-{number}", row) for number, row in enumerate(rows, start=1)]
        return asked_once(read, f"{self.name} {theirs}")

    def _problem(self, name: str, row: Record) -> Problem:
        try:
            question = self._text(row, "prompt_column")
            solution = text(*_inside(row, self.solution_column), optional=True) if self.solution_column else ""
            answer = self._text(row, "answer_column") if self.answer_column else extract(solution)
        except ValueError as error:
            raise ValueError(f"{self.name}, row {name}: {error}") from error
        if not answer:
            raise ValueError(
                f"{self.name}, row {name}: no final answer was found in its solution; name an answer_column"
            )
        return Problem(f"{Path(self.name).name}-{name}", question, answer, solution)

    def _text(self, row: Record, setting: str) -> str:
        return text(*_inside(row, vars(self)[setting]), setting=f"dataset.{setting}")


def load_rows(name: str, config: str | None, split: str, revision: str | None = None) -> Iterable[Record]:
    """The rows of one split. `name` is a hub name, a folder of files, or a folder written by `save_to_disk`."""
    import datasets

    name = str(Path(name).expanduser()) if name.startswith("~") else name
    try:
        if (Path(name) / "dataset_dict.json").exists():
            rows: Iterable[Record] = datasets.load_from_disk(name)[split]
        else:
            rows = datasets.load_dataset(name, config, split=split, revision=revision)
        return rows
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(
            f"split {split!r} of {name} could not be loaded ({reason}); "
            "check its name and the connection, or give a local path"
        ) from error


def _inside(row: Record, column: str) -> tuple[Record, str]:
    """The innermost record of a dotted column, and its key there."""
    *outer, last = column.split(".")
    for key in outer:
        inner = row.get(key)
        if not isinstance(inner, dict):
            raise ValueError(f'"{key}" is missing or holds no columns (it has: {", ".join(row)})')
        row = inner
    return row, last
