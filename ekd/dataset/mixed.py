"""Several datasets as one: each problem is graded by the dataset that posed it."""

from __future__ import annotations

from dataclasses import dataclass

from ekd.dataset.splits import SPLITS, NoSplit, percentile, without
from ekd.types import Dataset, Problem, Verdict


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """`parts` by name; a problem's id is name/id. A split holds the parts that have it, evenly interleaved.

    Without `weights` a split is all problems of all parts. With them, the parts' sizes stand in these proportions: as
    many problems as the scarcest part allows, chosen by the hash of their ids. A problem that a held-out split of any
    part poses is left out of the training split, with a warning.
    """

    parts: dict[str, Dataset]
    weights: dict[str, float] | None

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("parts is empty; name at least one dataset, e.g. dataset.parts.gsm8k")
        if any("/" in name for name in self.parts):
            raise ValueError(f"parts has the names {list(self.parts)}; a name must not hold a slash")
        if self.weights is not None and (set(self.weights) != set(self.parts) or min(self.weights.values()) <= 0):
            raise ValueError(
                f"weights is {self.weights}; it must give a positive number for each of {', '.join(self.parts)}"
            )

    def problems(self, split: str) -> list[Problem]:
        problems = self._mix(split)
        for held_out in SPLITS[SPLITS.index(split) + 1 :]:
            problems = without(problems, self._held_out(held_out), f"mixed {split}")
        return problems

    def grade(self, problem: Problem, response: str) -> Verdict:
        name, _, inner = problem.id.partition("/")
        return self.parts[name].grade(problem._replace(id=inner), response)

    def _held_out(self, split: str) -> list[Problem]:
        return [problem for problems in self._posed(split).values() for problem in problems]

    def _mix(self, split: str) -> list[Problem]:
        posed = self._posed(split)
        if not posed:
            raise NoSplit(f"no part of the mixed dataset ({', '.join(self.parts)}) has a split {split!r}")
        return _interleave(posed if self.weights is None else _proportion(posed, self.weights))

    def _posed(self, split: str) -> dict[str, list[Problem]]:
        posed = {}
        for name, part in self.parts.items():
            try:
                problems = part.problems(split)
            except NoSplit:
                continue
            posed[name] = [problem._replace(id=f"{name}/{problem.id}") for problem in problems]
        return posed


def _proportion(posed: dict[str, list[Problem]], weights: dict[str, float]) -> dict[str, list[Problem]]:
    unit = min(len(problems) / weights[name] for name, problems in posed.items())
    chosen = {}
    for name, problems in posed.items():
        ranked = sorted(problems, key=lambda problem: percentile(problem.id))
        keep = {problem.id for problem in ranked[: round(unit * weights[name])]}
        chosen[name] = [problem for problem in problems if problem.id in keep]
    return chosen


def _interleave(posed: dict[str, list[Problem]]) -> list[Problem]:
    """So that the first few hundred problems have the mixture of all."""
    placed = [((i + 0.5) / len(problems), p) for problems in posed.values() for i, p in enumerate(problems)]
    return [problem for _, problem in sorted(placed, key=lambda pair: pair[0])]
