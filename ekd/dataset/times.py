"""Times of day: 2:30 PM, 2:30 p.m., 14:30, 2 PM."""

from __future__ import annotations

import re
from typing import NamedTuple

_TIME = re.compile(
    r"(?P<hour>\d{1,2})(?::(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?)?\s*(?P<half>[ap])?(?(half)\.?\s*m\.?|)"
    r"(?:\s+in the (?:morning|afternoon|evening))?",
    re.IGNORECASE,
)


class Time(NamedTuple):
    seconds: int  # since midnight; where the half of the day is not said, as it is written
    half: bool  # whether AM or PM was said


def read_time(text: str) -> Time | None:
    """None if it is not a time: an hour alone is a number, and a ratio has no two digits after its colon."""
    match = _TIME.fullmatch(text)
    if match is None or not (match["minute"] or match["half"]):
        return None
    hour, half = int(match["hour"]), (match["half"] or "").lower()
    if hour > 24 or (half and not 1 <= hour <= 12):
        return None
    hour = hour % 12 + 12 * (half == "p") if half else hour
    return Time((hour * 60 + int(match["minute"] or 0)) * 60 + int(match["second"] or 0), bool(half))


def same_time(gold: Time, given: Time) -> bool | None:
    """2:30 PM is 14:30, and 2:30 where a half is not said. None: perhaps no times but ratios, 1:20 and 2:40."""
    if gold.half or given.half:
        noon = 12 * 3600
        unsaid = [time for time in (gold, given) if not time.half and time.seconds < 13 * 3600]
        return (gold.seconds - given.seconds) % noon == 0 if unsaid else gold.seconds == given.seconds
    return True if gold == given else None
