"""Word problems made on the spot, with worked solutions: needs no file, no hub and no account."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, product
from random import Random

from ekd.dataset import many_steps, one_step
from ekd.dataset.grading import grade
from ekd.dataset.splits import SHARE, check_split, percentile
from ekd.dataset.wording import LEVELS, ProblemDraft
from ekd.types import Problem, Verdict

_ONE = (
    one_step.addition,
    one_step.subtraction,
    one_step.multiplication,
    one_step.division,
    one_step.percent,
    one_step.distance,
    one_step.duration,
)
_MANY = (
    many_steps.two_step,
    many_steps.comparison,
    many_steps.half,
    many_steps.change,
    many_steps.discount,
    many_steps.wages,
    many_steps.average,
    many_steps.packing,
)
KINDS: dict[str, Callable[[Random, int], ProblemDraft]] = {kind.__name__: kind for kind in (*_ONE, *_MANY)}


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """Kinds and levels take turns, so that a split holds equally many of each until one is used up.

    A sum (its kind and its numbers) belongs to one split by its hash, whatever the seed: two splits never share a
    problem, not even in other words or if they were made with different seeds. A larger split begins with the smaller.
    """

    seed: int
    train: int
    val: int
    test: int
    kinds: list[str] | None
    levels: list[int]

    def __post_init__(self) -> None:
        for split in SHARE:
            if self._count(split) < 0:
                raise ValueError(f"{split} is {self._count(split)}; it is a number of problems, 0 or more")
        unknown = [kind for kind in self.kinds or [] if kind not in KINDS]
        if unknown or self.kinds == []:
            raise ValueError(
                f"kinds is {self.kinds}; it must be null for all, or a list of some of: {', '.join(KINDS)}"
            )
        if not self.levels or not set(self.levels) <= set(LEVELS):
            raise ValueError(
                f"levels is {self.levels}; it must be a list of some of 1 (small numbers), 2 and 3 (large ones)"
            )

    def problems(self, split: str) -> list[Problem]:
        """Raises ValueError if there are not as many different problems as asked for."""
        check_split("arithmetic", split, SHARE)
        made: dict[str, Problem] = {}
        repeats = 0
        for kind, draft in self._draws(split):
            if len(made) == self._count(split):
                break
            repeats = repeats + 1 if draft.question in made else 0
            if repeats > 1000:
                raise ValueError(self._used_up(split, len(made)))
            made.setdefault(draft.question, _problem(f"{split}-{len(made)}-{kind}", draft))
        return list(made.values())

    def grade(self, problem: Problem, response: str) -> Verdict:
        return grade(problem.answer, response)

    def _count(self, split: str) -> int:
        return {"train": self.train, "val": self.val, "test": self.test}[split]

    def _used_up(self, split: str, made: int) -> str:
        return (
            f"only {made} different {split} problems were found for levels {self.levels} and "
            f"kinds {self.kinds or 'all'}, not {self._count(split)}: ask for fewer, or add kinds or levels"
        )

    def _draws(self, split: str) -> Iterator[tuple[str, ProblemDraft]]:
        """Without end: the drafts that belong to this split, kinds and levels in turn."""
        rng = Random(f"ekd arithmetic {self.seed} {split}")
        for level, kind in cycle(product(sorted(set(self.levels)), self.kinds or KINDS)):
            drafts = (KINDS[kind](rng, level) for _ in iter(int, 1))
            yield kind, next(draft for draft in drafts if _belongs(kind, draft, split))


def _belongs(kind: str, draft: ProblemDraft, split: str) -> bool:
    low, high = SHARE[split]
    return low <= percentile(f"{kind} {sorted(draft.numbers)}") < high


def _problem(name: str, draft: ProblemDraft) -> Problem:
    solution = f"{draft.steps}\nThe answer is \\boxed{{{draft.answer}}}."
    return Problem(f"arithmetic-{name}", draft.question, str(draft.answer), solution)
