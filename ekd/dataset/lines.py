"""Reading JSON Lines: every bad line is found before any work begins."""

from __future__ import annotations

import json
from collections.abc import Callable
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


def text(record: Record, key: str, *, optional: bool = False) -> str:
    """The value as text, without blanks around it; a number is written out. Raises ValueError if it is not usable."""
    value = record.get(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    if optional and (value is None or value == ""):
        return ""
    if key not in record:
        raise ValueError(f'"{key}" is missing (it has: {", ".join(record) or "nothing"})')
    raise ValueError(
        f'"{key}" is {json.dumps(value, default=str)[:60]}; it must be text that is not empty, or a number'
    )


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
