"""Train, val and test: which of them a dataset has, and how problems are kept apart."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable
from functools import cache

from ekd.types import Problem

SPLITS = ("train", "val", "test")
SHARE = {"train": (0, 60), "val": (60, 75), "test": (75, 100)}  # of what is made on the spot: percentiles of a split


class NoSplit(ValueError):
    """The dataset does not have the split that was asked for."""


def check_split(name: str, split: str, has: Collection[str]) -> None:
    if split not in has:
        way = "; benchmark.problems=0 leaves the benchmark out" if split == "test" else ""
        raise NoSplit(f"dataset {name} has no split {split!r}; it has: {', '.join(has)}{way}")


def check_split_percent(name: str, value: float) -> None:
    if not 0 <= value < 100:
        raise ValueError(f"{name} is {value}; it must be at least 0 and less than 100 percent of the training problems")


def percentile(text: str) -> float:
    """A number in [0, 100) that depends on the text alone (SHA-256), so that a split never moves."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48 * 100


def carve(problems: Iterable[Problem], split: str, val_percent: float) -> list[Problem]:
    """The `train` or `val` part of a source that has no validation split of its own, by the hash of the question."""
    wanted = split == "val"
    return [problem for problem in problems if (percentile(question_key(problem)) < val_percent) == wanted]


def without(problems: Iterable[Problem], held_out: Iterable[Problem], name: str) -> list[Problem]:
    """`problems` less those whose question is also in `held_out`; says how many were left out."""
    taken = {question_key(problem) for problem in held_out}
    problems = list(problems)
    kept = [problem for problem in problems if question_key(problem) not in taken]
    if len(kept) < len(problems):
        left = len(problems) - len(kept)
        _say(f"{name}: {left} problems were left out of this split because a held-out split poses them too")
    return kept


def question_key(problem: Problem) -> str:
    """Two problems are one if their questions differ in nothing but blanks and capitals."""
    return " ".join((problem.question or problem.solution).split()).casefold()


def asked_once(problems: Iterable[Problem], name: str) -> list[Problem]:
    """Without repetitions of a question with the same solution; says once how many there were. Raises ValueError
    for one question with two answers. Other solutions of a question stay: they are other texts to learn from.
    """
    first: dict[tuple[str, str], Problem] = {}
    answers: dict[str, Problem] = {}
    repeats: list[Problem] = []
    for problem in problems:
        question = question_key(problem)
        same = answers.setdefault(question, problem)
        if same.answer != problem.answer:
            raise ValueError(
                f"{same.id} and {problem.id} are the same question with the answers {same.answer!r} and "
                f"{problem.answer!r}: remove the wrong one"
            )
        if first.setdefault((question, problem.solution), problem) is not problem:
            repeats.append(problem)
    if repeats:
        _say(f"{name}: {len(repeats)} problems repeat another and are asked once (the first of them: {repeats[0].id})")
    return list(first.values())


@cache
def _say(message: str) -> None:
    """A dataset is read many times in a run; it speaks once."""
    logging.getLogger(__name__).warning(message)
