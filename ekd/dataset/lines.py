"""Reading JSON Lines: every bad line is found before any work begins."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ekd.types import Problem

Record = dict[str, Any]


def read_problems(path: Path, to_problem: Callable[[Record, int], Problem]) -> list[Problem]:
    """`to_problem(record, line number)` says what is wrong with a record by ValueError. Empty lines are skipped.

    Raises one ValueError that names the file, the first bad line, what is wrong with it and the other bad lines.
    """
    problems, bad = [], {}
    for number, line in enumerate(_read(path).split(b"\n"), start=1):
        if line.strip():
            try:
                problems.append(to_problem(_record(line), number))
            except ValueError as error:
                bad[number] = str(error)
    if bad:
        raise ValueError(_complaint(path, bad))
    return problems


def text(record: Record, key: str, *, optional: bool = False, setting: str = "") -> str:
    """The value as text, without blanks around it; a number is written out. Raises ValueError if it is not usable.

    setting: the user's word for which column this is, where there is one.
    """
    value = record.get(key)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f'"{key}" is {json.dumps(value)}, which is no value: it is missing')
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and checked_text(value, f'"{key}"').strip():  # before the strip: it takes form feeds, too
        return value.strip()
    if optional and (value is None or value == ""):
        return ""
    if key not in record:
        way = f"; {setting} says which column it is" if setting else ""
        raise ValueError(f'"{key}" is missing (it has: {", ".join(record) or "nothing"}){way}')
    raise ValueError(
        f'"{key}" is {json.dumps(value, default=str)[:60]}; it must be text that is not empty, or a number'
    )


# No text means these. JSON makes them of a single backslash: "\frac" is a form feed and "rac", "\boxed" a backspace.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# A tab, a return or a line end where TeX has \theta, \text{, \rho, \nabla: only what is no word behind them.
EATEN = re.compile(r"\t(?=heta|imes\b|ext\w*\{|frac\{|ilde\{|riangle)|\r(?=ho\b|ight|angle)|\n(?=abla\b|otin\b)")


def checked_text(value: str, what: str) -> str:
    """Raises ValueError for characters that JSON has made of a backslash, and for half a character."""
    checked_unicode(value, what)
    if eaten := CONTROL.search(value) or EATEN.search(value):
        near = value[eaten.start() : eaten.start() + 12]
        raise ValueError(
            f"{what} holds a control character ({near!r}) where a backslash was meant: JSON wants it written twice, "
            '"\\\\frac" for \\frac'
        )
    return value


def checked_unicode(value: str, what: str) -> str:
    if half := re.search(r"[\ud800-\udfff]", value):
        raise ValueError(f"{what} holds half a character (\\u{ord(half[0]):04x} without its other half)")
    return value


def distinct_names(paths: Sequence[Path]) -> dict[Path, str]:
    """What each file is called in the ids of its problems: its name, with folders before it where two are alike."""
    found = {path: path.name for path in paths}
    deep = 1
    while len(set(found.values())) < len(found) and deep < max(len(path.parts) for path in paths):
        deep += 1
        twice = {name for name, count in Counter(found.values()).items() if count > 1}
        found = {p: "/".join(p.parts[-deep:]) if name in twice else name for p, name in found.items()}
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); check the path that the dataset was given"
        ) from error


def _record(line: bytes) -> Record:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error.msg} at column {error.colno})") from error
    except RecursionError as error:
        raise ValueError("it is nested too deep for a record of text") from error
    if not isinstance(record, dict):
        raise ValueError('it must be an object such as {"question": ..., "answer": ...}')
    return record


def _complaint(path: Path, bad: dict[int, str]) -> str:
    first, *others = bad
    more = (
        f" Also bad: line {', '.join(map(str, others[:10]))}{' and more' if len(others) > 10 else ''}."
        if others
        else ""
    )
    return (
        f"{path}, line {first}: {bad[first]}.{more} Correct or remove {'them' if others else 'it'}; nothing was done."
    )
