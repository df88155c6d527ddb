"""Plain text to distil on: a document is a problem without question and answer whose solution is the text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ekd.dataset.lines import Record, read_problems, text
from ekd.dataset.splits import SPLITS, carve, check_percent, check_split, without
from ekd.types import Problem, Verdict


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Files of .jsonl (one document a line, in `column`) or of plain text (documents divided by `separator`).

    A document longer than `max_chars` is cut into pieces, at a blank where there is one. Text has no answer to grade,
    so this needs a teacher that scores, and no exam.
    """

    train: str | list[str] | None
    val: str | list[str] | None
    test: str | list[str] | None
    val_percent: float
    column: str
    separator: str | None
    max_chars: int

    def __post_init__(self) -> None:
        check_percent("val_percent", self.val_percent)
        if self.max_chars < 1:
            raise ValueError(
                f"max_chars is {self.max_chars}; it is the longest piece of a document, at least 1 character"
            )
        if not self._has():
            raise ValueError("dataset corpus was given no file: set dataset.train, dataset.val or dataset.test")

    def problems(self, split: str) -> list[Problem]:
        check_split("corpus", split, self._has())
        problems = self._read("train" if self._carves() and split == "val" else split)
        if self._carves() and split != "test":
            problems = carve(problems, split, self.val_percent)
        for held_out in SPLITS[SPLITS.index(split) + 1 :]:
            problems = without(problems, self._read(held_out), f"corpus {split}")
        return problems

    def grade(self, problem: Problem, response: str) -> Verdict:
        return Verdict("unparseable", "")

    def _carves(self) -> bool:
        return bool(self.train) and not self.val and self.val_percent > 0

    def _has(self) -> list[str]:
        return [split for split in SPLITS if self._paths(split) or (split == "val" and self._carves())]

    def _paths(self, split: str) -> list[Path]:
        paths = {"train": self.train, "val": self.val, "test": self.test}[split] or []
        return [Path(path).expanduser() for path in ([paths] if isinstance(paths, str) else paths)]

    def _read(self, split: str) -> list[Problem]:
        return [problem for path in self._paths(split) for problem in self._file(path)]

    def _file(self, path: Path) -> list[Problem]:
        documents = self._lines(path) if path.suffix == ".jsonl" else self._texts(path)
        return [
            Problem(f"{name}:{number}", "", "", piece)
            for name, document in documents
            for number, piece in enumerate(_pieces(document, self.max_chars), start=1)
        ]

    def _lines(self, path: Path) -> list[tuple[str, str]]:
        def to_problem(record: Record, line: int) -> Problem:
            return Problem(f"{path.name}:{line}", "", "", text(record, self.column))

        return [(problem.id, problem.solution) for problem in read_problems(path, to_problem)]

    def _texts(self, path: Path) -> list[tuple[str, str]]:
        try:
            whole = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path} cannot be read as UTF-8 text ({error}); check the path and the encoding"
            ) from error
        parts = whole.split(self.separator) if self.separator else [whole]
        return [(f"{path.name}:{number}", part.strip()) for number, part in enumerate(parts, start=1) if part.strip()]


def _pieces(document: str, longest: int) -> Iterator[str]:
    """At most `longest` characters each, cut at the last blank of the second half."""
    while len(document) > longest:
        blank = re.compile(r"\s(?=\S*$)").search(document, longest // 2, longest)
        end = blank.start() if blank else longest
        yield document[:end].strip()
        document = document[end:].strip()
    if document:
        yield document
