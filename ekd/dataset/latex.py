r"""LaTeX as text: finding \boxed{...}, and the small differences of spelling that do not change a value."""

from __future__ import annotations

import re

_TEXT = re.compile(r"\\(?:text|mbox|mathrm|textbf|textrm|textit|mathbf|operatorname|textnormal)\s*\{([^{}]*)\}")
_FRAC = re.compile(r"\\frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
_SPELLING = [
    (re.compile(r"\\(?:left|right|displaystyle|bigl?|bigr|Bigl?|Bigr)(?![A-Za-z])\.?"), ""),
    (re.compile(r"\\[!,;:]\s*|\\ |~|\\q?quad\b"), " "),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\\$|\$|€|£|\*\*|\\\(|\\\)|\\\[|\\\]"), ""),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|°"), " degrees"),
    (re.compile("[−–]"), "-"),
    (re.compile(r"\\le(?:q|qslant)?(?![A-Za-z])|≤"), r"\\leq "),
    (re.compile(r"\\ge(?:q|qslant)?(?![A-Za-z])|≥"), r"\\geq "),
    (re.compile(r"(?<=\d),\s+(?=\d{3}(?!\d))(?![^()\[\]]*[)\]])"), ","),
]


def boxed(text: str) -> list[str]:
    r"""The contents of every finished \boxed{...} or \fbox{...}, in order; braces may nest. Linear in the text."""
    found = []
    for match in re.finditer(r"\\f?boxed\s{0,3}\{|\\fbox\s{0,3}\{|\\boxed\s{1,3}(?=[\w-])", text):
        start = match.end()
        end = closing_brace(text, start) if match.group().endswith("{") else _word_end(text, start)
        if end is not None:
            found.append(text[start:end])
    return found


def closing_brace(text: str, start: int, limit: int = 2000) -> int | None:
    """Where the group that opened just before `start` closes; None within `limit` characters if it does not."""
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start, start + limit):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.start()
    return None


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


def _word_end(text: str, start: int) -> int:
    match = re.compile(r"-?[\w.]{1,40}").match(text, start)
    return match.end() if match else start
