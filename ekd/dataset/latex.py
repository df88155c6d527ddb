r"""LaTeX as text: finding \boxed{...}, and the small differences of spelling that do not change a value."""

from __future__ import annotations

import re

_TEXT = re.compile(r"\\(?:text|mbox|mathrm|textbf|textrm|textit|mathbf|operatorname|textnormal)\s*\{([^{}]*)\}")
_FRAC = re.compile(r"\\frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
_BOX_MARK = re.compile(r"\\(?:boxed|fbox)\s{0,3}\{|\\boxed\s{1,3}(?P<word>-?[\w.]{1,40})|\\.|[{}]", re.DOTALL)
_SPELLING = [
    (re.compile(r"\\(?:left|right|displaystyle|bigl?|bigr|Bigl?|Bigr)(?![A-Za-z])\.?"), ""),
    (re.compile(r"(?<!\\)\\!\s*"), ""),
    (re.compile(r"(?<!\\)\\[,;: ]|~|\\q?quad\b"), " "),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\\$|\$|€|£|\*\*|\\\(|\\\)|\\\[|\\\]"), ""),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|°"), " degrees"),
    (re.compile("[−–]"), "-"),
    (re.compile(r"\\le(?:q|qslant)?(?![A-Za-z])|≤"), r"\\leq "),
    (re.compile(r"\\ge(?:q|qslant)?(?![A-Za-z])|≥"), r"\\geq "),
]


def boxed(text: str) -> list[str]:
    r"""The contents of every finished \boxed{...} or \fbox{...} in order. Braces may nest; of nested boxes, the inner.

    One pass, whatever the text. A box longer than 2,000 characters is not an answer and is left out.
    """
    spans: list[tuple[int, int]] = []
    open_groups: list[tuple[int, bool]] = []  # where its content begins, and whether it is a box without a box inside
    for match in _BOX_MARK.finditer(text):
        mark = match.group()
        if mark.startswith(("\\boxed", "\\fbox")):
            open_groups = [(start, False) for start, _ in open_groups[-50:]]
            if mark.endswith("{"):
                open_groups.append((match.end(), True))
            else:
                spans.append((match.start("word"), match.end("word")))
        elif mark == "{":
            open_groups.append((match.end(), False))
        elif mark == "}" and open_groups:
            start, is_box = open_groups.pop()
            if is_box and match.start() - start <= 2000:
                spans.append((start, match.start()))
    return [text[start:end] for start, end in spans]


def clean(text: str) -> str:
    """One spelling for what is written in many ways: blanks, fractions, text, dollar and degree signs, a last stop."""
    for pattern, replacement in _SPELLING:
        text = pattern.sub(replacement, text)
    text = _TEXT.sub(r" \1 ", text)
    text = _FRAC.sub(lambda m: rf"\frac{{{m[1] or m[2] or ''}}}{{{m[3] or m[4] or ''}}}", text)
    return " ".join(text.split()).rstrip(".,;: ")


def split_top(text: str) -> list[str]:
    """The parts between commas (and "and", "or", ";") that no bracket encloses."""
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"[()\[\]{}]|[,;]|\b(?:and|or)\b", text):
        mark = match.group()
        if mark in "([{":
            depth += 1
        elif mark in ")]}":
            depth -= 1
        elif depth == 0:
            parts.append(text[start : match.start()])
            start = match.end()
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]
