"""Problems of reasoning_gym, a collection of a hundred generators with graders of their own (an extra, Apache-2.0).

https://github.com/open-thought/reasoning-gym, https://arxiv.org/abs/2505.24760
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any

from ekd.dataset.grading import extract
from ekd.dataset.splits import SHARE, check_split, percentile, question_key
from ekd.types import Problem, Verdict

_MOST = 100  # draws of a task for each problem that is wanted of it, before it is said to be used up


@dataclass(frozen=True, kw_only=True)
class ReasoningGym:
    """tasks take turns. settings: of a task's own, by its name, e.g. {chain_sum: {max_terms: 3}}.

    A question belongs to one split by its hash, so that no two splits share one, whatever the seed. An answer is right
    where the task's own grader gives it 1, which for some tasks is more lenient than equality; no partial credit.
    """

    tasks: list[str]
    seed: int
    train: int
    val: int
    test: int
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"dataset.tasks is {self.tasks}; name at least one task, each once, e.g. [chain_sum]")
        if strangers := sorted(set(self.settings) - set(self.tasks)):
            raise ValueError(f"dataset.settings is for {strangers}, which dataset.tasks does not name: {self.tasks}")
        for split in SHARE:
            if vars(self)[split] < 0:
                raise ValueError(f"{split} is {vars(self)[split]}; it is a number of problems, 0 or more")

    def problems(self, split: str) -> list[Problem]:
        """Raises ValueError where the package or a task is missing, or a task has too few questions."""
        check_split("reasoning_gym", split, SHARE)
        wanted = vars(self)[split]
        streams = [self._drawn(task, split, wanted) for task in self.tasks]
        return [next(streams[number % len(streams)]) for number in range(wanted)]

    def grade(self, problem: Problem, response: str) -> Verdict:
        """By the task's own grader, from the problem's id (task-seed-place)."""
        said = extract(response)
        if not said:
            return Verdict("unparseable", "")
        task, seed, place = problem.id.rsplit("-", 2)
        generator = self._generator(task, int(seed))
        right = generator.score_answer(said, generator[int(place)]) >= 1
        return Verdict("correct" if right else "wrong", said)

    def _generator(self, task: str, seed: int) -> Any:
        return _generator(task, seed, json.dumps(dict(self.settings.get(task, {})), sort_keys=True))

    def _drawn(self, task: str, split: str, wanted: int) -> Iterator[Problem]:
        low, high = SHARE[split]
        generator = self._generator(task, self.seed)
        seen: set[str] = set()
        for place in count():
            if place >= _MOST * (wanted + 1):
                raise ValueError(
                    f"only {len(seen)} different {split} problems of {task} were found in {place} draws: ask for "
                    f"fewer, or widen it by dataset.settings.{task}"
                )
            entry = generator[place]
            problem = Problem(f"{task}-{self.seed}-{place}", entry["question"], str(entry["answer"]), "")
            key = question_key(problem)
            if key not in seen and low <= percentile(key) < high:
                seen.add(key)
                yield problem


@cache
def _generator(task: str, seed: int, settings: str) -> Any:
    """A task of the package; settings: JSON. Endless for every purpose here: entries are made when asked for."""
    try:
        import reasoning_gym
    except ImportError as error:
        raise ValueError("dataset=reasoning_gym needs a package: pip install 'ekd[reasoning]'") from error
    known: Mapping[str, Any] = reasoning_gym.factory.DATASETS
    if task not in known:
        raise ValueError(f"reasoning_gym has no task {task!r}; it has: {', '.join(sorted(known))}")
    try:
        return reasoning_gym.create_dataset(task, seed=seed, size=2**31, **json.loads(settings))
    except (TypeError, AssertionError, ValueError) as error:
        raise ValueError(f"reasoning_gym refuses dataset.settings.{task}={settings}: {error}") from error
