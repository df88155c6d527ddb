r"""Reading the final answer out of a response, and saying whether it is the right one. Never raises on bad text.

Where the answer is read, in this order, always the last occurrence (a thinking model's text after `</think>` first):
1. a finished \boxed{...} that is not empty, or several with only "and", "or" or commas between them: a list;
2. <answer>...</answer>, "the answer is ...", "final answer: ...", "答案：...", up to the end of the sentence;
3. "#### ...", GSM8K's own mark;
4. the whole response, if it is nothing but one number or one formula between dollar signs, or a number on a last line
   of its own.
Nothing else is guessed: a response without any of these is "unparseable", and so is a box that was cut off.

How it is compared (equality.py), cheapest first: as plain numbers (exact fractions), as times of day, as text, as lists
and pairs element by element, and only then by algebra (math-verify, at most 3 seconds). Units in words, currency and
degree signs are ignored, so "15 cm^2" is 15, but 15 m is not 15 cm where the reference says cm; 20% equals 20 and 0.2;
a pair keeps its order and its brackets, a list of solutions has no order.
"""

from __future__ import annotations

import re

from ekd.dataset.cleaning import clean
from ekd.dataset.equality import LONGEST_ANSWER, same, value_part
from ekd.dataset.latex import BoxSpan, boxed
from ekd.dataset.number import equal, read_number
from ekd.types import Verdict

__all__ = ["extract", "grade", "same"]

LONGEST_RESPONSE = 200_000  # characters; only the end of a longer one is read
MOST_BOXES = 20  # that are read as one list

_END_TOKEN = re.compile(r"<\|[^|<>\s]{1,40}\|>|</s>|<end_of_turn>|<eos>")
_TAG = re.compile(r"<(?P<tag>(?:final_?)?answer)>(?P<inside>.{1,400}?)</(?P=tag)>", re.IGNORECASE | re.DOTALL)
_MARK = re.compile(
    r"(?<![A-Za-z])(?:answers?(?:\s{1,3}(?:is|are|was)\b|[\s*_]{0,3}[:：]|\s{0,3}=)"
    r"|(?:final\s{1,3}|\#\s{0,3}(?:\*\*)?)answers?[*_\s]{0,3}\n)[\s:：*_`]{0,8}"
    r"|(?:答案|答え|答|정답|답)[*_\s]{0,3}(?:[是为為は은]|[:：])[\s:：*_`]{0,8}",
    re.IGNORECASE,
)
_REASON = re.compile(r",? \b(?:because|since|which|where|when|as)\b")
_SENTENCE_END = re.compile(r"\n|\.(?:\s|$)|(?<!\\)[!?](?:\s|$)|[。！？]")
_DISPLAY = re.compile(r"\$\$(.{1,400}?)\$\$|\\\[(.{1,400}?)\\\]", re.DOTALL)
_MATH = re.compile(r"\$((?:\\.|[^$\\\n]){1,400})\$(?!\d)|\\\(([^\n]{1,400}?)\\\)")  # "$5 and $6" are prices
_LOOSE_NUMBER = re.compile(r"-?\$?-?\d[\d,]{0,30}(?:\.\d{1,30})?%?")
_OTHER_THAN = re.compile(
    r"\b(?:not|never|than|least|most|between|negative|minus|over|under|above|below|either|or)\b|n't\b", re.I
)
_DENIED = re.compile(r"(?:definitely |certainly |clearly )?(?:not|never)\b", re.IGNORECASE)
_TOGETHER = re.compile(  # what joins two boxes into one list; "$x_2 =$" may stand before the second
    r"(?:\\?\$|\\[()\[\]]|\s|\\q?quad|\\[,;: ])*"
    r"(?:,|;|、|\\?&|\\text\{\s*,?\s*(?:and|or)\s*\}|\band\b|\bor\b|[和或]|\n\s*[-*•]\s)"
    r"(?:\\?\$|\\[()\[\]]|\s|\\q?quad|\\[,;: ]|\*\*|,|\\text\{\s*(?:and|or)\s*\}|and\b|or\b)*"
    r"(?:[A-Za-z](?:_\{?\w\}?)?\s*=\s*\$?\s*)?"
)
_ENUMERATOR = re.compile(r"\d{1,2}[.)]")


def grade(answer: str, response: str) -> Verdict:
    """`answer` is the reference as its source writes it."""
    given = extract(response)
    if not given:
        return Verdict("unparseable", "")
    return Verdict("correct" if same(answer, given) else "wrong", given)


def extract(response: str) -> str:
    """The final answer as the response writes it; "" if there is none."""
    text = _END_TOKEN.sub("", response[-LONGEST_RESPONSE:])
    _, thought, after = text.rpartition("</think>")
    return (_extract(after) if thought else "") or _extract(text)


def _extract(text: str) -> str:
    return _boxes(text) or _tagged(text) or _after_mark(text) or _after_hashes(text) or _whole(text) or _last_line(text)


def _boxes(text: str) -> str:
    """The last box, or the list that the last boxes are together."""
    last: list[BoxSpan] = []
    for span in reversed(boxed(text)):
        if last and (len(last) == MOST_BOXES or not _joined(text, span, last[0])):
            break
        if _says_something(span.content):
            last.insert(0, span)
    contents = [span.content.strip() for span in last]
    return ", ".join(contents[-1:] if _one_value(contents) else contents)


def _joined(text: str, left: BoxSpan, right: BoxSpan) -> bool:
    between = text[left.end : right.start]
    return len(between) <= 60 and _TOGETHER.fullmatch(between) is not None


def _one_value(contents: list[str]) -> bool:
    """Whether the boxes repeat one value: 1/2 or 0.5."""
    first, *others = [clean(content) for content in contents[:MOST_BOXES]] or [""]
    number = read_number(first)
    return all(
        other == first or bool(number and (second := read_number(other)) and equal(number, second)) for other in others
    )


def _says_something(content: str) -> bool:
    return len(content) > LONGEST_ANSWER or bool(clean(content))


def _tagged(text: str) -> str:
    inside = [match["inside"].strip() for match in _TAG.finditer(text)]
    if not inside or "\\boxed" in inside[-1]:
        return ""
    return _after_mark(inside[-1]) or _from_sentence(inside[-1])


def _after_mark(text: str) -> str:
    for match in reversed(list(_MARK.finditer(text))):
        rest = text[match.end() : match.end() + 400]
        if display := _DISPLAY.match(rest):
            found = "" if "\\boxed" in display[0] else (display[1] or display[2]).strip()
        else:
            end = _SENTENCE_END.search(rest)
            found = _from_sentence(rest[: end.start()] if end else rest)
        if found and _says_something(found):
            return found
    return ""


def _from_sentence(sentence: str) -> str:
    """The value that a sentence such as "$x = 5$ apples" or "that Janet makes 18 dollars" gives."""
    if "\\boxed" in sentence or _DENIED.match(sentence):  # cut off, or what the answer is not
        return ""
    if math := _maths(sentence):
        return math
    whole = _REASON.split(sentence, maxsplit=1)[0].strip().rstrip(".,;:*_`。 ").lstrip("*_`: ")
    if read_number(clean(whole.rsplit("=", 1)[-1])) or not re.search(r"\d", whole):
        return whole.rsplit("=", 1)[-1].strip() if clean(whole) else ""
    numbers = _LOOSE_NUMBER.findall(whole)
    prose = re.search(r"[A-Za-z]{3,} [a-z]{2,}|^[a-z]{2,} ", whole.replace("\\", " \\"))
    plain = prose and len(numbers) == 1 and not _OTHER_THAN.search(whole)
    return numbers[0].rstrip(",") if plain else whole


def _maths(sentence: str) -> str:
    """The first formula of a sentence, or the list that the first formulas are together: "$5$ or $6$"."""
    spans = [BoxSpan(m.start(), m.end(), (m[1] or m[2]).strip()) for m in _MATH.finditer(sentence)]
    if not spans or _OTHER_THAN.search(sentence[: spans[0].start]):
        return ""
    found = spans[:1]
    for span in spans[1:]:
        if not _joined(sentence, found[-1], span):
            break
        found.append(span)
    contents = [span.content for span in found if span.content]
    return ", ".join(contents[-1:] if _one_value(contents) else contents)


def _after_hashes(text: str) -> str:
    _, mark, rest = text.rpartition("####")
    line = rest.strip().split("\n", 1)[0].strip() if mark else ""
    return line if line and "\\boxed" not in line and _says_something(line) else ""


def _whole(text: str) -> str:
    text = text.strip()
    if len(text) > LONGEST_ANSWER or "\\boxed" in text:  # a box that was cut off
        return ""
    formula = re.fullmatch(
        r"\$\$([^$]+)\$\$\.?|\$((?:\\.|[^$\\])+)\$\.?|\\\(([^\n]+)\\\)\.?|\\\[(.+)\\\]\.?", text, re.DOTALL
    )
    if formula:
        return str(next(filter(None, formula.groups()))).strip()
    return text if "\n" not in text and read_number(clean(text)) else ""


def _last_line(text: str) -> str:
    """A number on a line of its own at the end. Not "3.", which is the next step of a list that was cut off."""
    text = text.rstrip()[-LONGEST_ANSWER:]
    display = re.search(r"\n\s*(?:\$\$([^$]+)\$\$|\\\[([^$]+?)\\\])\.?$", text)
    line = (display[1] or display[2]).strip() if display else text.rpartition("\n")[2].strip()
    if "\n" not in text or _ENUMERATOR.fullmatch(line) or "\\boxed" in line:
        return ""
    whole = _whole(line) or line
    return whole if read_number(value_part(clean(whole))) else ""
