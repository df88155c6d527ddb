"""Whether two final answers are the same: the cheapest comparison that can decide, decides."""

from __future__ import annotations

import re

from ekd.dataset.cleaning import clean
from ekd.dataset.latex import split_top
from ekd.dataset.number import equal, read_number
from ekd.dataset.symbolic import same_by_algebra
from ekd.dataset.times import read_time, same_time
from ekd.dataset.units import after_lead

LONGEST_ANSWER = 300  # characters given to math-verify; a longer answer is compared as text only

_NAMED = re.compile(  # "x = ", "f(x) =", "\theta \in", "\approx"
    r"(?:(?:[A-Za-z]|\\[a-z]{2,8})(?:_\{?\w\}?|\([a-z]\))?\s*(?:=|\\in(?![A-Za-z])|\\approx)|\\approx)\s*"
)
_BASE = re.compile(r"([0-9A-Fa-f]{1,60})\s*_\s*\{?\s*(\d{1,2})\s*\}?")
_CHOICE = re.compile(r"\(?\s*([A-J])\s*\)?")
_CHOSEN = re.compile(
    r"(?:\(\s*([A-J])\s*\)|([A-J])(?:\s*[).:]|\s*$|\s+(?=[\w\\(])(?!(?:or|and|to)\b|\\(?:cup|cap|times|cdot|pm|in)\b)))"
)
_WORDS = re.compile(r"[A-Za-z' -]*[A-Za-z]{4}[A-Za-z' -]*|(?:yes|no|odd|none|true)", re.IGNORECASE)
_BLANK_BESIDE_NO_NUMBER = re.compile(r"(?<!\d) | (?!\d)")


def same(answer: str, given: str) -> bool:
    """Whether `given` is the reference `answer` by any of the comparisons below."""
    if len(given) > LONGEST_ANSWER or len(answer) > LONGEST_ANSWER:
        return answer.split() == given.split()
    return _same(clean(answer), clean(given))


def value_part(text: str) -> str:
    """ "x = 5" and "x \\in [0, 1]" without the name."""
    return _NAMED.sub("", text, count=1) if _NAMED.match(text) and text.count("=") <= 1 else text


def _same(gold: str, given: str) -> bool:
    if not gold or not given:
        return False
    if _plain(gold) == _plain(given):
        return True
    for decide in (_as_numbers, _as_times, _as_sets, _as_base, _as_choice, _as_words):
        verdict = decide(gold, given)
        if verdict is not None:
            return verdict
    if re.search(r"\d \d", given):  # two numbers side by side, which math-verify would read as one
        return False
    return _as_parts(gold, given) or same_by_algebra(gold, given)


def _plain(text: str) -> str:
    return _BLANK_BESIDE_NO_NUMBER.sub("", value_part(text)).casefold()


def _as_numbers(gold: str, given: str) -> bool | None:
    left, right = read_number(value_part(gold)), read_number(value_part(given).rsplit("=", 1)[-1].strip())
    return equal(left, right) if left and right else None


def _as_times(gold: str, given: str) -> bool | None:
    left, right = read_time(value_part(gold)), read_time(after_lead(value_part(given)))
    return same_time(left, right) if left and right else None


def _as_base(gold: str, given: str) -> bool | None:
    """52_8: the same digits with the same base, or without one, since the question names it."""
    left = _BASE.fullmatch(gold)
    if left is None:
        return None
    right = _BASE.fullmatch(given)
    return left.groups() == right.groups() if right else left[1] == given


def _as_choice(gold: str, given: str) -> bool | None:
    """(C), C, "C. 12" and "(C) 12" are one choice; "C + D" and "C or D" are none."""
    left, right = _CHOICE.fullmatch(gold), _CHOSEN.match(given)
    return left[1] == (right[1] or right[2]) if left and right else None


def _as_words(gold: str, given: str) -> bool | None:
    """A reference in words is compared as words: math-verify would multiply its letters."""
    if not _WORDS.fullmatch(gold):
        return None
    return gold.casefold().split() == after_lead(given).casefold().strip("\"'. ").split()


def _as_sets(gold: str, given: str) -> bool | None:
    """Lists of plain numbers are decided here: math-verify would take 1, 1 for 1, and the interval (1, 2) for 1, 2."""
    golds, givens = _elements(gold), _elements(given)
    if len(golds) > 1 and len(givens) == 1 and re.fullmatch(r"[(\[].*,.*[)\]]", given):
        return False
    if len(golds) == len(givens) == 1 or not all(read_number(value_part(part)) for part in golds + givens):
        return None
    return _paired(golds, givens)


def _as_parts(gold: str, given: str) -> bool:
    """Pairs and intervals in order with the same brackets; lists of solutions in any order."""
    left, right = value_part(gold), value_part(given)
    if len(left) > 2 and left[0] in "([" and left[-1] in ")]":
        if not right or (left[0], left[-1]) != (right[0], right[-1]):
            return False
        golds, givens = split_top(left[1:-1]), split_top(right[1:-1])
        return len(golds) == len(givens) > 1 and all(_same(a, b) for a, b in zip(golds, givens, strict=True))
    golds, givens = _elements(left), _elements(right)
    return len(golds) > 1 and _paired(golds, givens)


def _elements(text: str) -> list[str]:
    """The solutions that a list or a set {...} names."""
    return split_top(value_part(text).removeprefix("\\{").removesuffix("\\}"))


def _paired(golds: list[str], givens: list[str]) -> bool:
    """Whether each has its own equal in the other."""
    rest = list(givens)
    for gold in golds:
        found = next((given for given in rest if _same(gold, given)), None)
        if found is None:
            return False
        rest.remove(found)
    return not rest
