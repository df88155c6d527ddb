"""A benchmark: held-out problems, a model's own words, a verdict on each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple, Protocol, runtime_checkable

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ekd.eval.answers import Answer, AnswerFile, pieces, repeats
from ekd.eval.metrics import summary
from ekd.eval.unsure import Unsure
from ekd.models.generation import generate
from ekd.models.heap import trim
from ekd.models.load import end_ids
from ekd.models.precision import MIXED, check_precision, forward_context
from ekd.models.progress import ProgressBar
from ekd.models.prompt import Prompt
from ekd.models.spec import ModelSpec
from ekd.models.teacher_prompt import TeacherPrompt
from ekd.types import Dataset, Failure, Problem, Request, Teacher, Text

FORMAT = 2  # of an answers file; older ones are not read

# (all requests, keys of those that are answered) -> the answers of the others
Solver = Callable[[list[Request], set[str]], Iterator[tuple[Request, Text | Failure]]]


class Answered(NamedTuple):
    answers: list[Answer]  # in the order of the problems
    failures: list[Failure]  # requests that a server finally refused; the same call asks again


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """problems: the first so many of the split, null for all. samples: answers to each problem.

    max_new_tokens: an answer that is longer is truncated. temperature 0 is greedy. batch_size: of a local model.
    precision: in which a local model answers, in the words of trainer.precision; 32-true: in that of its weights.
    teacher_prompt: what is read in the prompt's place, where a teacher answers that sees more; None: the prompt.
    """

    dataset: Dataset
    prompt: Prompt
    split: str
    problems: int | None
    samples: int
    max_new_tokens: int
    temperature: float
    top_p: float
    batch_size: int
    seed: int
    precision: str = "32-true"
    teacher_prompt: TeacherPrompt | None = None

    def __post_init__(self) -> None:
        check_precision(self.precision)
        for name in ("samples", "max_new_tokens", "batch_size"):
            if vars(self)[name] < 1:
                raise ValueError(f"benchmark.{name} is 1 or more, not {vars(self)[name]}")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                "benchmark.temperature is 0 (greedy) or more and 0 < benchmark.top_p <= 1, "
                f"not {self.temperature} and {self.top_p}"
            )
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"benchmark.samples={self.samples} at temperature 0 are {self.samples} equal answers: "
                "set benchmark.temperature=0.6, or benchmark.samples=1"
            )

    def questions(self) -> list[Problem]:
        if self.problems == 0:
            return []
        problems = self.dataset.problems(self.split)
        if any(not problem.question for problem in problems[: self.problems]):
            raise ValueError(
                f"dataset {type(self.dataset).__name__.lower()} is plain text, which nobody can answer: set "
                "benchmark.problems=0"
            )
        if self.problems is not None and not 0 <= self.problems <= len(problems):
            raise ValueError(
                f"the dataset's {self.split} split has {len(problems)} problems, not benchmark.problems={self.problems}"
            )
        return problems[: self.problems]

    def requests(self, tokenizer: PreTrainedTokenizerBase) -> list[Request]:
        """Each problem `samples` times, every time with a seed of its own."""
        other = self.teacher_prompt
        shots = max(self.prompt.shots, other.shots_of(self.prompt) if other else 0)
        examples = self.dataset.problems("train")[: shots + 1] if shots else []
        requests = []
        for problem in self.questions():
            prompt = self.prompt.ids if other is None else partial(other.ids, prompt=self.prompt)
            ids = prompt(tokenizer, problem=problem, examples=examples)
            requests += [
                Request(_key(problem.id, sample), problem.id, sample, self._seed(problem, sample), ids)
                for sample in range(self.samples)
            ]
        return requests

    def run(
        self,
        tokenizer: PreTrainedTokenizerBase,
        solve: Solver,
        path: Path,
        who: str,
        *,
        quiet: bool = False,
        transient: bool = False,
    ) -> Answered:
        """Answers go to `path` (JSONL) one by one; those that are there already are not asked again. quiet, transient:
        see `ekd.models.progress.ProgressBar`.
        """
        requests = self.requests(tokenizer)
        asked = {p.id: p for p in self.questions()}
        failures: list[Failure] = []
        with AnswerFile(path) as file:
            done, tokens = {_key(*key) for key in file.answers}, 0
            bar = ProgressBar(f"evaluating {who}", len(requests), done=len(done), quiet=quiet, transient=transient)
            with bar:
                for request, text in solve(requests, done):
                    if isinstance(text, Failure):
                        failures.append(text)
                        continue
                    file.add(self._graded(asked[request.problem_id], request, text, tokenizer))
                    tokens += len(text.ids)
                    failed = f", {len(failures)} failed" if failures else ""
                    bar.update(len(file.answers), f"{tokens / bar.seconds:,.0f} tokens/s{failed}")
            answers = [
                file.answers[r.problem_id, r.sample] for r in requests if (r.problem_id, r.sample) in file.answers
            ]
        return Answered(answers, failures)

    def summary(self, answers: Sequence[Answer]) -> dict[str, float]:
        """See `ekd.eval.metrics.summary`."""
        return summary(answers, asked=len(self.questions()) * self.samples, same=self._same)

    def identity(self, who: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> str:
        """A name for the answers of `who` to just these questions, in just these words."""
        asked = [(r.key, r.seed, r.prompt_ids) for r in self.requests(tokenizer)]
        answers = [p.answer for p in self.questions()]
        made = [FORMAT, who, asked, answers, self.max_new_tokens, self.temperature, self.top_p]
        made += [self.precision] if self.precision in MIXED else []
        return hashlib.sha256(json.dumps(made, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """What was asked and how, as plain values, for the result file."""
        questions = self.questions()
        digest = hashlib.sha256(json.dumps([p[:3] for p in questions]).encode()).hexdigest()
        return {
            "dataset": repr(self.dataset),
            "split": self.split,
            "problems": len(questions),
            "problems_sha256": digest,
            "prompt": asdict(self.prompt),
            **{n: vars(self)[n] for n in ("samples", "max_new_tokens", "temperature", "top_p", "batch_size", "seed")},
            "precision": self.precision,
        }

    def by_model(
        self, load: Callable[[], PreTrainedModel], tokenizer: PreTrainedTokenizerBase, *, seconds: float | None = None
    ) -> Solver:
        """The model is loaded only when there is something to solve. No batch is begun after so many seconds.

        Batches are cut from all requests, answered or not, and a batch that lacks an answer is computed whole: in other
        company a row's sums are rounded otherwise, and a stopped run would not end as one that was not.
        """

        def solve(requests: list[Request], done: set[str]) -> Iterator[tuple[Request, Text | Failure]]:
            ordered = sorted(requests, key=lambda r: -len(r.prompt_ids))
            batches = [ordered[i : i + self.batch_size] for i in range(0, len(ordered), self.batch_size)]
            unfinished = [batch for batch in batches if not done.issuperset(r.key for r in batch)]
            if not unfinished:
                return
            trim()  # after training, or another's answers
            model = load()
            training, end = model.training, end_ids(model, tokenizer)
            model.eval()
            began = monotonic()
            for batch in unfinished:
                if seconds is not None and monotonic() - began > seconds:
                    break
                unsure = Unsure(len(batch))
                with forward_context(self.precision, model.device):
                    texts = generate(
                        model,
                        [r.prompt_ids for r in batch],
                        end=end,
                        max_new_tokens=self.max_new_tokens,
                        temperature=self.temperature,
                        top_p=self.top_p,
                        seeds=[r.seed for r in batch],
                        watch=unsure.watch,
                    )
                yield from zip(batch, map(unsure.beside, range(len(batch)), texts), strict=True)
            model.train(training)

        return solve

    def of_teacher(self, teacher: Teacher, prompt: TeacherPrompt | None) -> Benchmark:
        """It is judged by what it read when it taught; and a server has a precision of its own."""
        precision = self.precision if isinstance(teacher, Loadable) else "32-true"
        return replace(self, teacher_prompt=prompt, precision=precision)

    def by_teacher(self, teacher: Teacher, tokenizer: PreTrainedTokenizerBase) -> Solver:
        """Any teacher can answer the benchmark, a served model too: it generates as the benchmark says. One that this
        process loads answers as a student does, without rows.
        """
        if isinstance(teacher, Loadable):
            return self.by_model(teacher.spec.load, tokenizer)
        if self.precision in MIXED:
            raise ValueError(
                f"benchmark.precision={self.precision} is that of a model which this process loads, and "
                f"{type(teacher).__name__} asks a server: leave it out"
            )
        asked = {"temperature": self.temperature, "top_p": self.top_p, "max_new_tokens": self.max_new_tokens}
        if lacking := sorted({"mode", *asked} - vars(teacher).keys()):
            raise ValueError(
                f"{type(teacher).__name__} cannot be asked as the benchmark asks (it has no {', '.join(lacking)}): set "
                "baselines.teacher=false"
            )
        generator = replace(teacher, mode="generate", **asked)  # type: ignore[type-var]

        def solve(requests: list[Request], done: set[str]) -> Iterator[tuple[Request, Text | Failure]]:
            missing = {r.key: r for r in requests if r.key not in done}
            clock = monotonic()
            for trace in generator.trace(list(missing.values())):
                if isinstance(trace, Failure):
                    yield missing[trace.key], trace
                else:
                    now = monotonic()
                    ids, entropy = trace.response_ids.tolist(), trace.entropy.tolist()
                    yield missing[trace.key], Text(ids, trace.finish, now - clock, entropy)
                    clock = now

        return solve

    def _graded(self, problem: Problem, request: Request, text: Text, tokenizer: PreTrainedTokenizerBase) -> Answer:
        words = str(tokenizer.decode(text.ids, skip_special_tokens=True))
        verdict = self.dataset.grade(problem, words)
        spelt = pieces(tokenizer, text.ids) if text.entropy else []
        if "".join(spelt) != words:  # bytes that are no text have no pieces
            spelt = []
        return Answer(
            problem_id=problem.id,
            sample=request.sample,
            status=verdict.status,
            extracted=verdict.extracted,
            reference=problem.answer,
            finish=text.finish,
            endless=text.finish == "length" and repeats(words),
            tokens=len(text.ids),
            seconds=round(text.seconds, 4),
            prompt=str(tokenizer.decode(request.prompt_ids)),
            text=words,
            pieces=spelt,
            entropy=[round(h, 3) for h in text.entropy] if spelt else [],
        )

    def _same(self, one: Answer, other: Answer) -> bool:
        """Whether two answers to a problem say the same: the other is right where the first is the reference."""
        problem = Problem(one.problem_id, "", one.extracted)
        return one.extracted == other.extracted or self.dataset.grade(problem, other.text).status == "correct"

    def _seed(self, problem: Problem, sample: int) -> int:
        return int(hashlib.sha256(f"{self.seed} {problem.id} {sample}".encode()).hexdigest()[:12], 16)


@runtime_checkable
class Generator(Protocol):
    """A model that only answers. What has no `solver` is a teacher."""

    def origin(self) -> dict[str, Any]: ...

    def solver(self, benchmark: Benchmark, tokenizer: PreTrainedTokenizerBase) -> Solver: ...


@runtime_checkable
class Loadable(Protocol):
    """A teacher whose model this process can load."""

    @property
    def spec(self) -> ModelSpec: ...


def _key(problem_id: str, sample: int) -> str:
    return f"{problem_id}#{sample}"
