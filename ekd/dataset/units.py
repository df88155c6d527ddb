"""What may stand beside a number without changing it: units, currencies, a remark in brackets, a word before it."""

from __future__ import annotations

import re
from typing import NamedTuple

SCALE = {
    "hundred": 10**2,
    "thousand": 10**3,
    "lakh": 10**5,
    "million": 10**6,
    "crore": 10**7,
    "billion": 10**9,
    "trillion": 10**12,
    **dict.fromkeys("万萬만", 10**4),
    **dict.fromkeys("亿億억", 10**8),
}
# Words after a number that are not units but mathematics, or that say that it is not the number.
_NOT_UNITS = "and or to times over plus minus pi sqrt sin cos tan log ln mod squared cubed factorial is not wrong false"
NOT_UNITS = {*_NOT_UNITS.split(), "incorrect", "negative"}
_BOUNDS = re.compile("以上|以下|以内|以外|未满|未満|不是|이상|이하|미만")  # 72元以上 is "72 or more"
LETTER_UNITS = frozenset("msghLNJ")  # a lone letter may be a variable: "5 x" is not a number with a unit
VARIABLES = frozenset("xyzntkij")
_ATTACHED = (
    "cm mm km kg mg ml mL ft lb lbs oz mph min mins hr hrs am pm degree degrees dollar dollars cent cents "
    "st nd rd th m g h sec secs kWh kW Hz"
)
ATTACHED = frozenset(_ATTACHED.split())  # units written without a space
# Units that people measure with, each with the words for it: 72 cm is not 72 m, where the reference names one.
MEASURES = {
    word: names.split()[0]
    for names in (
        "mm millimeter millimetre",
        "cm centimeter centimetre",
        "m meter metre",
        "km kilometer kilometre",
        "inch in inche",
        "ft foot feet",
        "yd yard",
        "mile mi",
        "mg milligram",
        "g gram",
        "kg kilogram",
        "lb pound",
        "oz ounce",
        "ml milliliter millilitre",
        "l liter litre",
        "s sec second",
        "min minute",
        "h hr hour",
        "day",
        "week",
        "month",
        "year",
        "cent",
        "dollar usd",
        "euro eur",
    )
    for word in names.split()
}

# Letters of words beside a number. Not Greek: those are variables. Not the letters of a name in LaTeX: "\pi".
_LETTER = r"A-Za-zÀ-ÖØ-öø-ɏЀ-ӿ\u0590-\u06ff\u0900-\u0dff\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7afµ"
_WORD = re.compile(f"[{_LETTER}]+")
_UNIT = re.compile(rf"(?:[{_LETTER} ./'()-]|(?<=[{_LETTER} ])\^(?:\{{\s*-?\s*[1-3]\s*\}}|-?[1-3])|\\cdot )*")
_LEAD = re.compile(
    r"(?:(?:USD|EUR|GBP|INR|CNY|RMB|JPY|AUD|CAD|CHF|HKD|SGD|KRW|MXN|BRL|Rs|Re|Rp|RM|kr)(?![A-Za-z])\.?"
    r"|(?i:about|approximately|approx\.?|around|roughly|exactly|nearly|almost|only|just|(?:a |the )?total(?: of)?"
    r"|(?:the )?(?:final )?answer(?: is)?)(?![A-Za-z]|\s*:)"
    rf"|(?!not\b|no\b|never\b)[{_LETTER}](?:[{_LETTER} ']{{0,40}}[{_LETTER}])?\s*:"
    r"|约|共|大约|\\approx(?![A-Za-z])|\\sim(?![A-Za-z])|=)\s*"
)


class Unit(NamedTuple):
    scale: int  # "million" is 10**6
    measure: str  # one of MEASURES' values, "" for any other word and for none


def after_lead(text: str) -> str:
    """Without what stands before a number and does not change it: "about", "Answer:", "Rs."."""
    for _ in range(3):
        match = _LEAD.match(text)
        if match is None:
            break
        text = text[match.end() :]
    return text


def read_unit(text: str) -> Unit | None:
    """`text` is what follows a number, to the end. None if that is not a unit: "x", " and 5", "^2"."""
    if not text.strip(" ."):
        return Unit(1, "")
    words = _WORD.findall(text)
    if not words:
        return Unit(1, "") if text.strip() == "/-" else None  # Rs. 50/-
    if _UNIT.fullmatch(text) is None or text.count("(") != text.count(")") or not _is_unit(text, words):
        return None
    return Unit(_scale(words[0]), next((MEASURES[name] for name in map(_singular, words) if name in MEASURES), ""))


def _is_unit(text: str, words: list[str]) -> bool:
    first, *others = words
    if NOT_UNITS & {word.lower() for word in words} or _BOUNDS.search(text):
        return False
    if VARIABLES & set(others) or text.lstrip(" -/(")[:1] in "^)'.":
        return False
    if text.startswith(first) and first.isascii():
        return first in ATTACHED
    return len(first) > 1 or not first.isascii() or first in LETTER_UNITS


def _scale(word: str) -> int:
    return SCALE.get(word.lower(), SCALE.get(word[0], 1))


def _singular(word: str) -> str:
    return word.lower().removesuffix("s") or word
