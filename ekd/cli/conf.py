"""What conf/ holds: the groups, their choices and the keys, composed as Hydra does it, once for equal choices."""

from __future__ import annotations

import difflib
import re
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from ekd.method import CONF

PACKAGE = Path(__file__).parents[1]
DOORS = {"perplexity": "evaluate perplexity", "harness": "evaluate harness"}


@cache
def composed(name: str, words: tuple[str, ...] = ()) -> DictConfig:
    """conf/<name>.yaml with these words, `hydra` among it. Kept, so nobody may change it."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(name, [*words, "hydra.runtime.output_dir=."], return_hydra_config=True)


def top_keys(name: str) -> set[str]:
    """The keys at the top, and the groups that may be chosen, also those of which nothing is (logger: null)."""
    door: Any = OmegaConf.load(CONF / f"{name}.yaml")
    groups = {
        str(key).removeprefix("optional ")
        for one in door.get("defaults", [])
        if isinstance(one, DictConfig)
        for key in one
    }
    return set(map(str, composed(name))) | groups


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def having(group: str, key: str) -> list[str]:
    """The choices of a group that know a key."""
    files = sorted((CONF / group).glob("*.yaml"))
    known = re.compile(rf"^{re.escape(key)}:", re.MULTILINE)
    return [f"{group}={file.stem}" for file in files if known.search(file.read_text())]


def like(name: str, key: str) -> str:
    """Where a key of that name lives, or one spelt nearly so."""
    config = composed(name)
    leaves = [leaf for key in map(str, config) if key != "hydra" for leaf in _leaves(config, key, key)]
    same = [path for path in leaves if path.rpartition(".")[2] == key]
    groups = {group.name for group in CONF.iterdir() if group.is_dir() and group.name in config}
    if not same:
        close = difflib.get_close_matches(key, {path.rpartition(".")[2] for path in leaves} | groups, 1)
        same = [path for path in leaves if close and path.rpartition(".")[2] == close[0]]
        same += [close[0]] if close and close[0] in groups else []
    same.sort(key=lambda path: path.count("."))
    return (
        f"did you mean {' or '.join(f'{path}=...' for path in same[:4])}?" if same else f"see `{door_of(name)} --help`"
    )


def door_of(name: str) -> str:
    return f"python -m ekd.{DOORS.get(name, name)}"


def _leaves(node: DictConfig, key: str, path: str) -> list[str]:
    """The values that are written at a key or below it."""
    if OmegaConf.is_interpolation(node, key) or OmegaConf.is_missing(node, key):
        return [path]
    child = node[key]
    if not isinstance(child, DictConfig):
        return [path]
    return [leaf for inner in map(str, child) for leaf in _leaves(child, inner, f"{path}.{inner}")]
