"""Reading a plain number, as people and models write it, into an exact fraction."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

SCALE = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
# Words after a number that are not units but mathematics.
NOT_UNITS = {"and", "or", "to", "times", "over", "plus", "minus", "pi", "sqrt", "sin", "cos", "tan", "log", "ln", "mod"}
LETTER_UNITS = {"m", "s", "g", "h", "L", "N", "J"}
ATTACHED = (
    "cm|mm|km|kg|mg|ml|mL|ft|lbs?|oz|mph|mins?|hrs?|am|pm|degrees?|dollars?|cents?"  # units written without a space
)

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)"
_POWER = r"(?:\s*(?:\\times|\\cdot|[x×*])\s*10\s*\^\s*\{?\s*(?P<power>-?\d{1,3})\s*\}?|[eE](?P<exponent>[-+]?\d{1,3}))"
_FRACTION = r"(?:\\frac\{\s*(?P<top>-?\d+)\s*\}\{\s*(?P<bottom>-?\d+)\s*\}|(?P<over>\d+)\s*/\s*(?P<under>\d+))"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:(?P<whole>\d+)?\s*{_FRACTION}|(?P<digits>{_DIGITS}){_POWER}?)"
    rf"\s*(?P<percent>%|percent\b)?(?P<unit>(?:(?:{ATTACHED})\b)?(?:[ /-][A-Za-z./ -]*)?)(?:\^\{{?[23]\}}?|[²³])?\.?"
)
_SLASHED = re.compile(r"(?P<sign>[-+]?)(?P<whole>\d+)\s+(?P<over>\d+)/(?P<under>\d+)")


class Number(NamedTuple):
    value: Fraction
    percent: bool  # written with a percent sign: 20% may stand for 20 or for 0.2

    def readings(self) -> set[Fraction]:
        return {self.value, self.value / 100} if self.percent else {self.value}


def read_number(text: str) -> Number | None:
    """`text` is cleaned LaTeX without dollar signs (see latex.clean). None if it is not one number.

    Understands signs, thousands commas, decimals, fractions, mixed numbers, powers of ten, "2 million", a percent sign
    and a unit in words, which is ignored. At most 60 characters are looked at: longer is not a plain number.
    """
    if len(text) > 60:
        return None
    match = _SLASHED.fullmatch(text) or _NUMBER.fullmatch(text)
    if match is None:
        return None
    groups = match.groupdict()
    words = re.findall(r"[A-Za-z]+", groups.get("unit") or "")
    if not _is_unit(words):
        return None
    value = _value(groups)
    if value is None:
        return None
    scale = SCALE.get(words[0].lower(), 1) if words else 1
    return Number(value * scale * (-1 if groups["sign"] == "-" else 1), bool(groups.get("percent")))


def equal(gold: Number, given: Number) -> bool:
    """Exact, except that a fraction without end (1/3) equals its decimals to one part in a million."""
    if gold.percent == given.percent:
        return _close(gold.value, given.value)
    return any(_close(a, b) for a in gold.readings() for b in given.readings())


def _is_unit(words: list[str]) -> bool:
    """A lone letter may be a variable: "5 x" is not a number with a unit."""
    if not words:
        return True
    return not NOT_UNITS & {word.lower() for word in words} and (len(words[0]) > 1 or words[0] in LETTER_UNITS)


def _value(groups: dict[str, str | None]) -> Fraction | None:
    if digits := groups.get("digits"):
        value = Fraction(digits.replace(",", "").rstrip(".") or "0")
        power = int(groups.get("power") or groups.get("exponent") or 0)
        return value * Fraction(10) ** power
    bottom = int(groups.get("bottom") or groups.get("under") or 0)
    if bottom == 0:
        return None
    return Fraction(int(groups.get("whole") or 0)) + Fraction(int(groups.get("top") or groups.get("over") or 0), bottom)


def _close(a: Fraction, b: Fraction) -> bool:
    if a == b:
        return True
    return _endless(a) != _endless(b) and abs(a - b) * 10**6 <= max(abs(a), abs(b))


def _endless(value: Fraction) -> bool:
    """Whether its decimals never end: the denominator has a prime factor other than 2 and 5."""
    bottom = value.denominator
    for prime in (2, 5):
        while bottom % prime == 0:
            bottom //= prime
    return bottom != 1
