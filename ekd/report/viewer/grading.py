"""Which solutions of a store are right: by the dataset that posed the problems, for a store keeps no answers."""

from __future__ import annotations

from ekd.report.viewer.page import Graded
from ekd.types import Dataset, Problem, Trace


def posed(dataset: Dataset) -> dict[str, Problem]:
    """Every problem by its id. Raises the dataset's own ValueError where no split can be read."""
    problems: dict[str, Problem] = {}
    refused: list[ValueError] = []
    for split in ("train", "val", "test"):
        try:
            problems |= {problem.id: problem for problem in dataset.problems(split)}
        except ValueError as error:  # e.g. a dataset that has only a test split
            refused.append(error)
    if not problems and refused:
        raise refused[0]
    return problems


class TraceGrader:
    """Grades traces by the dataset's own rules."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.problems = dataset, posed(dataset)

    def poses(self, trace: Trace, prompt: str) -> bool:
        """An id may be another problem's (made with another seed), so the question has to be in the prompt, too."""
        problem = self.problems.get(trace.problem_id)
        return problem is not None and problem.question in prompt

    def __call__(self, trace: Trace, prompt: str, response: str) -> Graded:
        if not self.poses(trace, prompt):
            return Graded("unknown")
        problem = self.problems[trace.problem_id]
        verdict = self.dataset.grade(problem, response)
        return Graded(verdict.status, verdict.extracted, problem.answer)
