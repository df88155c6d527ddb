"""Reading a plain number, as people and models write it, into an exact fraction."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from ekd.dataset.units import after_lead, read_unit

LONGEST = 80  # characters; longer is not a plain number

_GROUPED = r"(?:\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d{2})+,\d{3})(?![\d,])"  # 1,234,567 and, in India, 12,34,567
_DECIMAL = rf"(?:{_GROUPED}(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)"
_KINDS = (
    r"(?P<whole>\d+)?\s*\\frac\{\s*(?P<top>-?\d+)\s*\}\{\s*(?P<bottom>-?\d+)\s*\}",
    r"(?:(?P<units>\d+)\s+)?(?P<over>\d+)\s*/\s*(?P<under>\d+)",
    r"(?P<head>\d*\.\d*)\((?P<block>\d+)\)",
    r"(?P<base>\d{1,4})\s*\^\s*(?:\{\s*(?P<raised>-?\d{1,3})\s*\}|(?P<digit>\d))",
    rf"(?P<digits>{_DECIMAL})(?:\s*(?:\\times|\\cdot|[x*])\s*10\s*\^\s*\{{?\s*(?P<power>-?\d{{1,3}})\s*\}}?"
    r"|[eE](?P<exponent>[-+]?\d{1,3}))?",
)
_NUMBER = re.compile(rf"(?P<sign>[-+]?)\s*(?:{'|'.join(_KINDS)})(?:\s*(?P<percent>%|percent\b|per cent\b))?")


class Number(NamedTuple):
    value: Fraction
    percent: bool  # written with a percent sign: 20% may stand for 20 or for 0.2
    measure: str = ""  # "cm" where it was written with a unit that people measure with

    def readings(self) -> set[Fraction]:
        return {self.value, self.value / 100} if self.percent else {self.value}


def read_number(text: str) -> Number | None:
    """`text` is cleaned (see cleaning.clean). None if it is not one number.

    Understands signs, thousands commas, decimals, repeating decimals as 0.1(6), fractions, mixed numbers, powers,
    "2 million", a percent sign, and what `units` says may stand beside a number.
    """
    if len(text) > LONGEST:
        return None
    body = after_lead(text)
    if body.startswith("(") and body.endswith(")"):
        body = body[1:-1].strip()
    match = _NUMBER.match(body)
    unit = read_unit(body[match.end() :]) if match else None
    value = _value(match.groupdict()) if match and unit else None
    if match is None or unit is None or value is None:
        return None
    return Number(value * unit.scale * (-1 if match["sign"] == "-" else 1), bool(match["percent"]), unit.measure)


def equal(gold: Number, given: Number) -> bool:
    """Exact, except that a fraction without end (1/3) equals its decimals to one part in a million.

    A unit counts where both name one: 72 cm is not 72 m.
    """
    if gold.measure and given.measure and gold.measure != given.measure:
        return False
    if gold.percent == given.percent:
        return _close(gold.value, given.value)
    return any(_close(a, b) for a in gold.readings() for b in given.readings())


def _value(groups: dict[str, str | None]) -> Fraction | None:
    if digits := groups["digits"]:
        power = int(groups["power"] or groups["exponent"] or 0)
        return Fraction(digits.replace(",", "").rstrip(".") or "0") * Fraction(10) ** power
    if base := groups["base"]:
        raised = int(groups["raised"] or groups["digit"] or 0)
        return None if int(base) == 0 and raised <= 0 else Fraction(int(base)) ** raised
    if head := groups["head"]:
        return _repeating(head, groups["block"] or "0")
    bottom = int(groups["bottom"] or groups["under"] or 0)
    if bottom == 0:
        return None
    return int(groups["whole"] or groups["units"] or 0) + Fraction(int(groups["top"] or groups["over"] or 0), bottom)


def _repeating(head: str, block: str) -> Fraction:
    """0.1(6) = 0.1 + 6/9 / 10."""
    decimals = len(head.partition(".")[2])
    return Fraction(f"0{head}0") + Fraction(int(block), (10 ** len(block) - 1) * 10**decimals)


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
