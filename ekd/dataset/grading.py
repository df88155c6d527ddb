r"""Reading the final answer out of a response, and saying whether it is the right one. Never raises on bad text.

Where the answer is read, in this order, always the last occurrence (a thinking model's text after `</think>` first):
1. a finished \boxed{...} that is not empty;
2. "the answer is ...", "final answer: ...", "Answer: ..." up to the end of the sentence;
3. "#### ...", GSM8K's own mark;
4. the whole response, if it is nothing but one number or one formula between dollar signs.
Nothing else is guessed: a response without any of these is "unparseable", and so is a box that was cut off.

How it is compared, cheapest first: as plain numbers (exact fractions), as text, as lists and pairs element by element,
and only then by algebra (math-verify, at most 3 seconds). Units in words, currency and degree signs are ignored, so
"15 cm^2" is 15; 20% equals 20 and 0.2; a pair keeps its order and its brackets, a list of solutions has no order.
"""

from __future__ import annotations

import re

from ekd.dataset.latex import boxed, clean, split_top
from ekd.dataset.number import equal, read_number
from ekd.dataset.symbolic import same_by_algebra
from ekd.types import Verdict

LONGEST_RESPONSE = 200_000  # characters; only the end of a longer one is read
LONGEST_ANSWER = 300  # characters given to math-verify; a longer answer is compared as text only

_MARK = re.compile(
    r"\b(?:answer(?:\s{1,3}is|\s{0,3}:|\s{0,3}=)|final\s{1,3}answer[*\s]{0,3}\n)[\s:*]{0,8}", re.IGNORECASE
)
_REASON = re.compile(r",? \b(?:because|since|which|where|when|as)\b")
_SENTENCE_END = re.compile(r"\n|\.(?:\s|$)|[!?](?:\s|$)")
_MATH = re.compile(r"\$([^$\n]{1,400})\$|\\\(([^\n]{1,400}?)\\\)")
_LOOSE_NUMBER = re.compile(r"-?\$?-?\d[\d,]{0,30}(?:\.\d{1,30})?%?")
_NAMED = re.compile(  # "x = ", "f(x) =", "\theta \in", "\approx"
    r"(?:(?:[A-Za-z]|\\[a-z]{2,8})(?:_\{?\w\}?|\([a-z]\))?\s*(?:=|\\in(?![A-Za-z])|\\approx)|\\approx)\s*"
)
_BASE = re.compile(r"([0-9A-Fa-f]{1,60})\s*_\s*\{?\s*(\d{1,2})\s*\}?")
_CHOICE = re.compile(r"\(?\s*([A-J])\s*\)?")
_WORDS = re.compile(r"[A-Za-z' -]*[A-Za-z]{4}[A-Za-z' -]*")


def grade(answer: str, response: str) -> Verdict:
    """`answer` is the reference as its source writes it."""
    given = extract(response)
    if not given:
        return Verdict("unparseable", "")
    return Verdict("correct" if same(answer, given) else "wrong", given)


def extract(response: str) -> str:
    """The final answer as the response writes it; "" if there is none."""
    text = response[-LONGEST_RESPONSE:]
    _, thought, after = text.rpartition("</think>")
    return (_extract(after) if thought else "") or _extract(text)


def same(answer: str, given: str) -> bool:
    """Whether `given` is the reference `answer` by any of the comparisons above."""
    if len(given) > LONGEST_ANSWER or len(answer) > LONGEST_ANSWER:
        return answer.split() == given.split()
    return _same(clean(answer), clean(given))


def _extract(text: str) -> str:
    boxes = [content.strip() for content in boxed(text) if clean(content)]
    return boxes[-1] if boxes else _after_mark(text) or _after_hashes(text) or _whole(text)


def _after_mark(text: str) -> str:
    for match in reversed(list(_MARK.finditer(text))):
        rest = text[match.end() : match.end() + 400]
        end = _SENTENCE_END.search(rest)
        if found := _from_sentence(rest[: end.start()] if end else rest):
            return found
    return ""


def _from_sentence(sentence: str) -> str:
    """The value that a sentence such as "$x = 5$ apples" or "that Janet makes 18 dollars" gives."""
    if "\\boxed" in sentence:  # cut off: what it would have said is not known
        return ""
    if math := _MATH.search(sentence):
        return (math[1] or math[2]).strip()
    whole = _REASON.split(sentence, maxsplit=1)[0].strip().rstrip(".,;:* ").lstrip("*: ")
    if read_number(clean(whole.rsplit("=", 1)[-1])) or not re.search(r"\d", whole):
        return whole.rsplit("=", 1)[-1].strip() if clean(whole) else ""
    numbers = _LOOSE_NUMBER.findall(whole)
    prose = re.search(r"[A-Za-z]{3,} [a-z]{2,}|^[a-z]{2,} ", whole.replace("\\", " \\"))
    return numbers[0].rstrip(",") if prose and len(numbers) == 1 else whole


def _after_hashes(text: str) -> str:
    _, mark, rest = text.rpartition("####")
    line = rest.strip().split("\n", 1)[0].strip() if mark else ""
    return line if clean(line) and "\\boxed" not in line else ""


def _whole(text: str) -> str:
    text = text.strip()
    if len(text) > LONGEST_ANSWER or "\n" in text:
        return ""
    formula = re.fullmatch(r"\$([^$]+)\$\.?|\\\((.+)\\\)\.?|\\\[(.+)\\\]\.?", text)
    if formula:
        return next(filter(None, formula.groups())).strip()
    return text if read_number(clean(text)) else ""


def _same(gold: str, given: str) -> bool:
    if not gold or not given:
        return False
    if _plain(gold) == _plain(given):
        return True
    for decide in (_as_numbers, _as_sets, _as_base, _as_choice, _as_words):
        verdict = decide(gold, given)
        if verdict is not None:
            return verdict
    return _as_parts(gold, given) or same_by_algebra(gold, given)


def _plain(text: str) -> str:
    return _value_part(text).replace(" ", "").casefold()


def _value_part(text: str) -> str:
    """ "x = 5" and "x \\in [0, 1]" without the name."""
    return _NAMED.sub("", text, count=1) if _NAMED.match(text) and text.count("=") <= 1 else text


def _as_numbers(gold: str, given: str) -> bool | None:
    left, right = read_number(_value_part(gold)), read_number(_value_part(given).rsplit("=", 1)[-1].strip())
    return equal(left, right) if left and right else None


def _as_base(gold: str, given: str) -> bool | None:
    """52_8: the same digits with the same base, or without one, since the question names it."""
    left = _BASE.fullmatch(gold)
    if left is None:
        return None
    right = _BASE.fullmatch(given)
    return left.groups() == right.groups() if right else left[1] == given


def _as_choice(gold: str, given: str) -> bool | None:
    """(C), C and "(C) 12" are one choice."""
    left = _CHOICE.fullmatch(gold)
    right = re.match(_CHOICE.pattern + r"(?![A-Za-z])", given)
    return left[1] == right[1] if left and right else None


def _as_words(gold: str, given: str) -> bool | None:
    """A reference in words is compared as words: math-verify would multiply its letters."""
    if not _WORDS.fullmatch(gold):
        return None
    return gold.casefold().split() == given.casefold().strip("\"'. ").split()


def _as_sets(gold: str, given: str) -> bool | None:
    """Lists of plain numbers are decided here: math-verify would take 1, 1 for 1, and the interval (1, 2) for 1, 2."""
    golds, givens = _elements(gold), _elements(given)
    if len(golds) > 1 and len(givens) == 1 and re.fullmatch(r"[(\[].*,.*[)\]]", given):
        return False
    if len(golds) == len(givens) == 1 or not all(read_number(_value_part(part)) for part in golds + givens):
        return None
    return _paired(golds, givens)


def _as_parts(gold: str, given: str) -> bool:
    """Pairs and intervals in order with the same brackets; lists of solutions in any order."""
    left, right = _value_part(gold), _value_part(given)
    if len(left) > 2 and left[0] in "([" and left[-1] in ")]":
        if not right or (left[0], left[-1]) != (right[0], right[-1]):
            return False
        golds, givens = split_top(left[1:-1]), split_top(right[1:-1])
        return len(golds) == len(givens) > 1 and all(_same(a, b) for a, b in zip(golds, givens, strict=True))
    golds, givens = _elements(left), _elements(right)
    return len(golds) > 1 and _paired(golds, givens)


def _elements(text: str) -> list[str]:
    """The solutions that a list or a set {...} names."""
    return split_top(text.removeprefix("\\{").removesuffix("\\}"))


def _paired(golds: list[str], givens: list[str]) -> bool:
    """Whether each has its own equal in the other."""
    rest = list(givens)
    for gold in golds:
        found = next((given for given in rest if _same(gold, given)), None)
        if found is None:
            return False
        rest.remove(found)
    return not rest
