"""What a run is called where it is logged: its name, its sweep and its tags, from what Hydra was told."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

TAGGED = ("selector", "signal", "dataset", "teacher")
LONGEST = 128  # characters that W&B takes as a name
LONGEST_TAG = 64


def run_name(choices: Mapping[str, str | None], overrides: Sequence[str]) -> str:
    """choices: of Hydra's groups. The overrides, but for the logger's; with a method "bucket_70_80 seed 1 ..."."""
    told = [word for word in overrides if not word.startswith(("logger", "controls="))]
    if method := choices.get("method"):
        rest = [word for word in told if not word.startswith(("method=", "experiment="))]
        short = [word for word in rest if word.startswith(("seed=", "budget="))]
        told = [method, *(word.replace("=", " ") for word in short), *(word for word in rest if word not in short)]
    name = " ".join(told) or f"selector={choices.get('selector')}"
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def sweep_name(mode: Enum | None, folder: str) -> str | None:
    """multirun/bucket_sweep -> bucket_sweep; multirun/2026-11-24/08-42-55 -> 2026-11-24 08-42-55; None: one run."""
    if mode is None or mode.name != "MULTIRUN":
        return None
    path = Path(folder)
    dated = re.fullmatch(r"\d{4}-\d\d-\d\d", path.parent.name)
    return f"{path.parent.name} {path.name}" if dated else path.name


def tags(choices: Mapping[str, str | None]) -> list[str]:
    """The groups that a door does not have are left out."""
    return [f"{group}={choices[group]}"[:LONGEST_TAG] for group in TAGGED if choices.get(group)]


def opening(config: Mapping[str, Any], method: str, device: str) -> list[str]:
    """What will run, a line each. config: resolved."""
    teacher, student, more = config["teacher"], config["student"], (config.get("teacher_prompt") or {}).get("shots")
    reads = f", after {more} worked examples" if more else ""
    named = teacher.get("model") or str(teacher["_target_"]).rpartition(".")[2]  # one of the user's own has no model
    parts = [str(student["model"])]
    parts += [] if student["layers"] in ("all", "auto") else [f"layers {student['layers']}"]
    parts += ["adapters"] if student["lora"] else []
    steps, tokens, epochs = config["trainer"].get("max_steps"), student["supervised_tokens"], "max_epochs"
    ends = (
        f"{tokens} tokens" if tokens else f"{steps} steps" if steps != -1 else f"{config['trainer'].get(epochs)} epochs"
    )
    return [
        f"teacher     {named} ({teacher.get('mode', 'answer')}s{reads})",
        f"student     {', '.join(parts)}, on {device} in {config['trainer'].get('precision')}",
        f"method      {method}: {ends} at {student['optimizer'].get('lr')}",
    ]
