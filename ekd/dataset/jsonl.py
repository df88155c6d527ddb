"""Any problems in JSON Lines files: a question and an answer and, if there are, an id and a solution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ekd.dataset.grading import grade
from ekd.dataset.lines import Record, distinct_names, read_problems, text
from ekd.dataset.reading import remembered
from ekd.dataset.splits import SPLITS, asked_once, carve, check_split, check_split_percent, question_key
from ekd.types import Problem, Verdict

Paths = str | list[str] | None


@dataclass(frozen=True, kw_only=True)
class Jsonl:
    """question, answer, solution and id name the columns. A problem without an id is called file:line.

    An id that occurs twice, and a question that is in two splits, are refused; one that a split poses twice is asked
    once.

    With `train` files and no `val` files, `val_percent` of the training problems (by the hash of the question) are val.
    """

    train: Paths
    val: Paths
    test: Paths
    val_percent: float
    question: str
    answer: str
    solution: str
    id: str

    def __post_init__(self) -> None:
        check_split_percent("val_percent", self.val_percent)
        if not self._has():
            raise ValueError(
                "dataset jsonl was given no file: set dataset.train, dataset.val or dataset.test to a path or a list"
            )

    @remembered
    def problems(self, split: str) -> list[Problem]:
        """Reads all splits, since only so can a problem that is in two of them be found."""
        read = {name: self._read(name) for name in SPLITS}  # a file that is not there is named before a split is missed
        check_split("jsonl", split, self._has())
        _refuse_repeats(read)
        if self._carves() and split in ("train", "val"):
            return carve(read["train"], split, self.val_percent)
        return read[split]

    def files(self) -> list[Path]:
        return [path for split in SPLITS for path in self._paths(split)]

    def grade(self, problem: Problem, response: str) -> Verdict:
        return grade(problem.answer, response)

    def _carves(self) -> bool:
        return bool(self.train) and not self.val and self.val_percent > 0

    def _has(self) -> list[str]:
        return [split for split in SPLITS if self._paths(split) or (split == "val" and self._carves())]

    def _paths(self, split: str) -> list[Path]:
        paths = {"train": self.train, "val": self.val, "test": self.test}[split] or []
        return [Path(path).expanduser() for path in ([paths] if isinstance(paths, str) else paths)]

    @remembered
    def _read(self, split: str) -> list[Problem]:
        names = distinct_names([path for name in SPLITS for path in self._paths(name)])
        columns = (self.question, self.answer, self.solution, self.id)
        read = [problem for path in self._paths(split) for problem in read_file(path, names[path], columns)]
        return asked_once(read, f"jsonl {split}")


USUAL = ("question", "answer", "solution", "id")


def read_file(path: Path, called: str | None = None, columns: tuple[str, str, str, str] = USUAL) -> list[Problem]:
    """called: what the file is in the ids of its problems. Raises ValueError with file and line for a bad line."""
    question, answer, solution, own = columns

    def to_problem(record: Record, line: int) -> Problem:
        name = text(record, own, optional=True) or f"{called or path.name}:{line}"
        posed = text(record, question, setting="dataset.question"), text(record, answer, setting="dataset.answer")
        return Problem(name, *posed, text(record, solution, optional=True))

    return read_problems(path, to_problem)


def _refuse_repeats(read: dict[str, list[Problem]]) -> None:
    ids: dict[str, str] = {}
    questions: dict[str, tuple[str, str]] = {}
    for split, problems in read.items():
        for problem in problems:
            if problem.id in ids:
                raise ValueError(
                    f"the id {problem.id!r} occurs twice ({ids[problem.id]} and {split}); give each its own"
                )
            ids[problem.id] = split
            other, name = questions.setdefault(question_key(problem), (split, problem.id))
            if other != split:
                raise ValueError(
                    f"{name} ({other}) and {problem.id} ({split}) are the same question; remove one, or the figures of "
                    f"{split} mean nothing"
                )
