"""How a run came about, in words: its command, and the weights that it began with."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def command(made: Mapping[str, Any]) -> str:
    """As it was typed, but for the path of the program."""
    words = [str(word) for word in made.get("command") or []]
    door = Path(words[0]).stem if words else "train"
    return shlex.join(["python", "-m", f"ekd.{'train' if door == '__main__' else door}", *words[1:]])


def start_of(made: Mapping[str, Any]) -> str:
    """ "" for the model's own weights. made: as in run.json."""
    start = made.get("start")
    return f"weights of {start['file']} (ckpt_from, sha256 {start['sha256'][:12]})" if start else ""
