"""What may be taken from a run's folder, which may be a stranger's: plain files, plain values, and ekd's own classes.

A config names classes and has them called, so a config that others wrote is a program that others wrote. Training runs
whatever the user's own command line names; what a run that is evaluated or reported says comes through here.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ekd.files import read_json
from ekd.outside import check_tree
from ekd.renamed import CLASSES, current_run

FILES = (
    "run.json",
    "metrics.json",
    "answers.jsonl",
    "answers_before.jsonl",
    "answers_teacher.jsonl",
    "rounds.jsonl",
    "failed.txt",
    "student",
    "report",
    "eval",
    "export",
)
# What commands take from a run's config, and what may be built in it: classes of a room (any file of it) or a module.
USES: dict[str, tuple[str, ...]] = {
    "dataset": ("dataset.",),
    "prompt": ("models.prompt",),
    "data.collector": (
        *("data.collect", "dataset.", "teacher."),
        *("models.prompt", "models.teacher_prompt", "data.policy"),
    ),
    "data.val_problems": (),  # a plain value
    "student.model": (),
    "student.layers": (),
}
# Of these whatever the run says does not hold: its workers may be a stranger's, and would be sent programs.
OURS: dict[str, dict[str, Any]] = {"data.collector": {"engine": {"_target_": "ekd.engine.local.Local"}}}


def config_of(run: Path) -> dict[str, Any]:
    """The config in run.json. Raises ValueError, one sentence, for links in the run and for what no run wrote."""
    if not (run / "run.json").is_file():
        raise ValueError(f"run={run} is not a training run (no {run / 'run.json'}); give the folder that it printed")
    return run_part(run, "run.json", "config")


def run_part(run: Path, name: str, part: str) -> dict[str, Any]:
    """A part of one of the run's JSON files."""
    check_run(run)
    found = current_run(read_json(run / name))
    if not isinstance(found.get(part), dict):
        raise ValueError(f"{run / name} holds no {part!r}: no training run wrote it; give another run")
    return dict(found[part])


def check_run(run: Path) -> None:
    """Raises ValueError where the run holds a link or a device among what is read, or written over, from it."""
    check_tree(run, [*FILES, *(folder.name for folder in run.glob("csv*"))])


def checked_part(config: dict[str, Any], part: str, *, decided: Mapping[str, Any], own: str | None = None) -> Any:
    """A part of a run's config, checked: ready to be built, or to be put beside the user's own values.

    decided: by key, what only the user may say (whether to run a model's code, where a secret is), in place of the
    run's word. own: the class that the user's command line names for the part.
    """
    found: Any = config
    for name in part.split("."):
        found = found.get(name, Missing) if isinstance(found, dict) else Missing
    if found is Missing or isinstance(found, dict) != bool(USES[part]):
        raise ValueError(f"the run's config says nothing that can be used of {part}: give another run")
    if own is not None:
        found = {key: value for key, value in found.items() if key != "_target_"}
    checked = _plain(found, part, {**decided, **OURS.get(part, {})}, part)
    return checked if own is None else checked | {"_target_": own}


class Missing:
    """Stands for what a config does not hold; null is a value."""


def _plain(value: Any, part: str, decided: Mapping[str, Any], where: str) -> Any:
    if isinstance(value, dict):
        return {str(k): _entry(str(k), v, part, decided, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(one, part, decided, f"{where}[{n}]") for n, one in enumerate(value)]
    if isinstance(value, str) and ("${" in value or value == "???"):
        raise ValueError(f"the run's {where} is {value!r}, which no trained run holds: {_way_out(part)}")
    return value


def _entry(key: str, value: Any, part: str, decided: Mapping[str, Any], where: str) -> Any:
    if key == "_target_":
        return _target(value, part, where)
    if key.startswith("_"):  # _args_, _partial_ and what else Hydra acts upon
        raise ValueError(f"the run's {where} is {value!r}, which says how to call something: {_way_out(part)}")
    return decided[key] if key in decided else _plain(value, part, decided, where)


def _target(name: Any, part: str, where: str) -> str:
    """Only a class that a room itself defines: not what its files import, and no function."""
    name = CLASSES.get(name, name) if isinstance(name, str) else name
    known = re.fullmatch(r"ekd\.((\w+\.)\w+)\.([A-Z]\w*)", name) if isinstance(name, str) else None
    if known is None or not {known[1], known[2]} & set(USES[part]) or not _defined(*str(name).rsplit(".", 1)):
        raise ValueError(f"the run's {where} is {name!r}, which is no class of ekd for it: {_way_out(part)}")
    return str(name)


def _defined(module: str, name: str) -> bool:
    if importlib.util.find_spec(module) is None:
        return False
    made = vars(importlib.import_module(module)).get(name)
    return isinstance(made, type) and made.__module__ == module


def _way_out(part: str) -> str:
    yours = (
        f"{part}._target_=... or {part}=..." if part in ("dataset", "prompt") else "store=STORE or student.model=MODEL"
    )
    return f"a run may be a stranger's, so it is not run; what is your own is named on the command line ({yours})"
