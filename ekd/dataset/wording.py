"""What every kind of word problem is made of: the drawn numbers, the words, and one of several wordings."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

LEVELS = (1, 2, 3)
NAMES = ["Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Ivy", "Jack", "Kate", "Leo", "Maria"]
NAMES += ["Noah", "Olivia", "Paul", "Rosa", "Sam", "Tina", "Victor"]
THINGS = [
    "apples",
    "marbles",
    "stickers",
    "pencils",
    "books",
    "coins",
    "shells",
    "cards",
    "cookies",
    "beads",
    "buttons",
]

_FACTOR = {1: (2, 9), 2: (4, 20), 3: (12, 60)}  # what is multiplied or shared
_AMOUNT = {1: (3, 20), 2: (15, 99), 3: (120, 950)}  # what is counted, added and taken away


class ProblemDraft(NamedTuple):
    numbers: tuple[int, ...]  # what decides the sum; two drafts of one kind with the same numbers are the same problem
    question: str
    steps: str  # ends with the sentence that answers the question
    answer: int


def amount(rng: Random, level: int) -> int:
    return rng.randint(*_AMOUNT[level])


def factor(rng: Random, level: int) -> int:
    return rng.randint(*_FACTOR[level])


def small_number(rng: Random) -> int:
    return rng.randint(2, 9)


def share_of_level(rng: Random, level: int) -> int:
    """Percent; every one of them leaves a whole number of a multiple of 20."""
    return rng.choice([10, 20, 25, 50] if level == 1 else [5, 10, 15, 20, 25, 30, 40, 60, 75])


def draft(rng: Random, numbers: tuple[int, ...], answer: int, *wordings: tuple[str, str]) -> ProblemDraft:
    return ProblemDraft(numbers, *rng.choice(wordings), answer)
