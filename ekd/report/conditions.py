"""What the cells of a sweep differ in beside their method and seed, and which of it takes them apart.

A setting under which the same method was run twice with the same seed divides the sweep: methods are compared within
each value of it, never across. One that goes with the method (a learning rate of its own) divides nothing; `cautions`
names it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ekd.method import actor_name
from ekd.report.cell import Cell

# A place, a repetition, a budget, or a copy of what another group says.
IDLE = re.compile(
    r"(seed|ckpt|data\.seed|method|budget|plan|plan_gb|controls)|(callback|logger|hydra)\..*"
    r"|trainer\.(default_root_dir|logger|callbacks).*|keep_checkpoints|save_student|viewer"
    r"|student\.(start|(signal|selector|loss|gate)(\..*)?)|data\.source(\..*)?"
    r"|data\.(temperature|collector\.(teacher|engine|dataset|prompt|tokenizer|contrast|policy).*)|engine\..*"
    r"|benchmark\.(dataset|prompt)(\..*)?"
)
# What makes a method: see `ekd.method`.
METHOD = re.compile(
    r"(signal|selector|loss|gate|source|policy)(\..*)?|data\.samples(\.(?!seed$).*)?|teacher\.draws"
    r"|student\.(temperature|alpha_ce|tail|unmatched)"
)


def divided(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """{setting: its cells}, in order of appearance; {"": all} where nothing divides them."""
    flat = [settings_of(cell) for cell in cells]
    keys = crossed(cells, flat)
    found: dict[str, list[Cell]] = {}
    for cell, one in zip(cells, flat, strict=True):
        found.setdefault(label(keys, one), []).append(cell)
    return found


def crossed(cells: Sequence[Cell], flat: Sequence[dict[str, str]]) -> list[str]:
    """The settings that some method took several values of with one seed."""
    groups: dict[tuple[Any, int], list[dict[str, str]]] = {}
    for cell, one in zip(cells, flat, strict=True):
        groups.setdefault((cell.method, cell.seed), []).append(one)
    varied = {
        key
        for group in groups.values()
        if len(group) > 1
        for key in set().union(*group)
        if len({one.get(key) for one in group}) > 1
    }
    return sorted(varied)


def label(keys: Sequence[str], settings: dict[str, str]) -> str:
    """dataset=gsm8k where another class was taken, whose own values go without saying; else each value."""
    actors = {key.rpartition(".")[0] for key in keys if key.endswith("._target_")}
    said = [key for key in keys if key.endswith("._target_") or not any(key.startswith(f"{a}.") for a in actors)]
    return ", ".join(f"{key.removesuffix('._target_')}={settings.get(key, 'null')}" for key in said)


def settings_of(cell: Cell) -> dict[str, str]:
    """Every value of the config that is neither a place nor part of the method, as text."""
    flat = dict(leaves(cell.made["config"]))
    kept = {k: v for k, v in flat.items() if not IDLE.fullmatch(k) and not METHOD.fullmatch(k)}
    return {key: worded_condition(key, value) for key, value in kept.items()}


def worded_condition(key: str, value: Any) -> str:
    if isinstance(value, str):
        return actor_name(value) if key.endswith("_target_") else value
    return json.dumps(value)


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, child in node.items():
            yield from leaves(child, f"{path}.{key}" if path else str(key))
    else:
        yield path, node
