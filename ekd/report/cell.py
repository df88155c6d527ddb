"""One finished run of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ekd.method import Method


class Cell(NamedTuple):
    folder: Path
    budget: str  # "steps", "tokens", or "" where the run does not say
    method: Method
    seed: int
    figures: dict[str, Any]
    made: dict[str, Any]  # config, command, ekd, commit, changed, versions
