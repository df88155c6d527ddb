r"""The structure of LaTeX: finding \boxed{...}, and the parts of a list."""

from __future__ import annotations

import re
from typing import NamedTuple

_BOX_MARK = re.compile(r"\\{1,2}(?:boxed|fbox)\s{0,3}\{|\\{1,2}boxed\s{1,3}(?P<word>-?[\w.]{1,40})|\\.|[{}]", re.DOTALL)
_BOX_NAME = re.compile(r"\\{1,2}(?:boxed|fbox)")


class BoxSpan(NamedTuple):
    start: int  # of the box with its command, in the text
    end: int
    content: str


def boxed(text: str) -> list[BoxSpan]:
    r"""Every finished \boxed{...} or \fbox{...} in order. Braces may nest; of nested boxes, the inner.

    One pass, whatever the text. A box longer than 2,000 characters is not an answer and is left out.
    """
    spans: list[BoxSpan] = []
    open_groups: list[tuple[int, int, bool]] = []  # begin, begin of its content, whether a box without a box inside
    for match in _BOX_MARK.finditer(text):
        mark = match.group()
        if _BOX_NAME.match(mark):
            open_groups = [(start, inner, False) for start, inner, _ in open_groups[-50:]]
            if mark.endswith("{"):
                open_groups.append((match.start(), match.end(), True))
            else:
                spans.append(BoxSpan(match.start(), match.end(), match["word"]))
        elif mark == "{":
            open_groups.append((match.start(), match.end(), False))
        elif mark == "}" and open_groups:
            start, inner, is_box = open_groups.pop()
            if is_box and match.start() - inner <= 2000:
                spans.append(BoxSpan(start, match.end(), text[inner : match.start()]))
    return spans


def split_top(text: str) -> list[str]:
    """The parts between commas (and "and", "or", ";") that no bracket encloses."""
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"[()\[\]{}]|[,;]|\b(?:and|or)\b|[和或及]", text):
        mark = match.group()
        if mark in "([{":
            depth += 1
        elif mark in ")]}":
            depth -= 1
        elif depth == 0:
            parts.append(text[start : match.start()])
            start = match.end()
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]
