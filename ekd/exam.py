"""The exam: held-out problems, the student's own words, a verdict on each. Every answer is written as it comes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import track
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ekd.generation import Text, generate
from ekd.model import end_ids
from ekd.prompt import Prompt
from ekd.types import Dataset, Failure, Problem, Request, Teacher

Solver = Callable[[list[Request]], Iterator[tuple[Request, Text]]]


class Answer(NamedTuple):
    problem_id: str
    sample: int
    status: str  # correct, wrong or unparseable
    extracted: str
    finish: str  # stop or length
    tokens: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Exam:
    """problems: the first so many of the split, null for all. max_new_tokens: an answer that is longer is truncated.

    temperature 0 is greedy. teacher, before: whether the teacher and the untrained student sit it too (once; kept).
    """

    dataset: Dataset
    prompt: Prompt
    split: str
    problems: int | None
    max_new_tokens: int
    temperature: float
    batch_size: int
    seed: int
    teacher: bool
    before: bool

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.batch_size < 1 or self.temperature < 0:
            raise ValueError(
                "exam.max_new_tokens and exam.batch_size are 1 or more, exam.temperature 0 or more, not "
                f"{self.max_new_tokens}, {self.batch_size} and {self.temperature}"
            )

    def questions(self) -> list[Problem]:
        problems = self.dataset.problems(self.split)
        if self.problems is not None and not 0 <= self.problems <= len(problems):
            raise ValueError(f"the dataset's {self.split} split has {len(problems)} problems, not exam.problems={self.problems}")
        return problems[: self.problems]

    def sit(self, tokenizer: PreTrainedTokenizerFast, solve: Solver, path: Path, who: str) -> list[Answer]:
        """Answers go to `path` (JSONL) one by one; those that are there already are not asked again."""
        questions = self.questions()
        answers = read(path)
        asked = {p.id: p for p in questions}
        examples = self.dataset.problems("train")[: self.prompt.shots + 1] if self.prompt.shots else []
        missing = [
            Request(p.id, p.id, 0, self._seed(p), self.prompt.ids(tokenizer, p, examples))
            for p in questions
            if (p.id, 0) not in answers
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            for request, text in track(solve(missing), f"judging {who}", len(missing), disable=not missing):
                words = tokenizer.decode(text.ids, skip_special_tokens=True)
                verdict = self.dataset.grade(asked[request.problem_id], words)
                answer = Answer(request.problem_id, 0, *verdict, text.finish, len(text.ids), words)
                file.write(json.dumps(answer._asdict()) + "\n")
                file.flush()
                answers[answer.problem_id, 0] = answer
        return [answers[p.id, 0] for p in questions if (p.id, 0) in answers]

    def identity(self, who: dict[str, Any]) -> str:
        """A name for the results of `who` on just these questions."""
        made = [who, asdict(self.prompt), self.questions(), self.max_new_tokens, self.temperature, self.seed]
        return hashlib.sha256(json.dumps(made, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def by_model(self, load: Callable[[], PreTrainedModel], tokenizer: PreTrainedTokenizerFast) -> Solver:
        """The model is loaded only when there is something to solve."""

        def solve(requests: list[Request]) -> Iterator[tuple[Request, Text]]:
            if not requests:
                return
            model = load()
            end = end_ids(model, tokenizer)
            ordered = sorted(requests, key=lambda r: len(r.prompt_ids))
            training = model.training
            model.eval()
            for start in range(0, len(ordered), self.batch_size):
                batch = ordered[start : start + self.batch_size]
                texts = generate(
                    model,
                    [r.prompt_ids for r in batch],
                    end=end,
                    max_new_tokens=self.max_new_tokens,
                    temperature=self.temperature,
                    seeds=[r.seed for r in batch],
                )
                yield from zip(batch, texts, strict=True)
            model.train(training)

        return solve

    def by_teacher(self, teacher: Teacher) -> Solver:
        """Any teacher can sit the exam: it generates, greedily or as the exam says."""
        pupil = replace(  # type: ignore[type-var]
            teacher, mode="generate", temperature=self.temperature, max_new_tokens=self.max_new_tokens
        )

        def solve(requests: list[Request]) -> Iterator[tuple[Request, Text]]:
            asked = {r.key: r for r in requests}
            for trace in pupil.trace(requests):
                if not isinstance(trace, Failure):
                    yield asked[trace.key], Text(trace.response_ids.tolist(), trace.finish)

        return solve

    def _seed(self, problem: Problem) -> int:
        return int(hashlib.sha256(f"{self.seed} {problem.id}".encode()).hexdigest()[:12], 16)


def read(path: Path) -> dict[tuple[str, int], Answer]:
    """Answers of an earlier call. A last line that a kill cut short is left out."""
    answers = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.endswith("}"):
            answer = Answer(**json.loads(line))
            answers[answer.problem_id, answer.sample] = answer
    return answers


def summary(answers: Sequence[Answer]) -> dict[str, float]:
    """Accuracy with its 95% interval (Wilson), shares of answers that could not be read or were cut off, mean tokens."""
    n = len(answers)
    correct = sum(a.status == "correct" for a in answers)
    low, high = wilson(correct, n)
    return {
        "problems": n,
        "accuracy": correct / n if n else 0.0,
        "accuracy_low": low,
        "accuracy_high": high,
        "unparseable": sum(a.status == "unparseable" for a in answers) / n if n else 0.0,
        "truncated": sum(a.finish == "length" for a in answers) / n if n else 0.0,
        "tokens": sum(a.tokens for a in answers) / n if n else 0.0,
    }


def wilson(correct: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The score interval of a binomial share (Wilson 1927): good at small n and near 0 and 1, where AIME lives."""
    if n == 0:
        return 0.0, 1.0
    share = correct / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)
