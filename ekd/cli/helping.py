"""--help: every setting of a command with its value, its choices and what its yaml says of it."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from ekd.cli.conf import composed, door_of, options
from ekd.cli.words import parse_words
from ekd.method import CONF

KEY = re.compile(r"( *)(?:- )?([\w.@/]+):(.*?)(?:(?:^|\s)# (.*))?$")
INDENT, VALUE = 2, 46  # columns: of a setting, and before what is said of it
EXAMPLES = {
    "train": ("selector=bucket selector.lower=70", "-m selector=topk,random selector.k_percent=20 seed=0,1"),
    "trace": ("teacher=ollama dataset=gsm8k student.model=Qwen/Qwen3-0.6B", "teacher.mode=score"),
    "evaluate": (
        "run=RUN", "student.model=MODEL dataset=aime", "compare A B", "perplexity run=RUN",
        "harness run=RUN tasks=[gsm8k]",
    ),
    "perplexity": ("run=RUN", "store=STORE student.model=MODEL"),
    "harness": ("run=RUN tasks=[gsm8k]", "student.model=MODEL tasks=[gsm8k]"),
    "chat": ("run=RUN", "run=RUN beside=true temperature=0.7"),
    "report": ("sweep=multirun/bucket_sweep", "traces=STORE"),
    "export": ("run=RUN format=hf", "run=RUN format=ollama"),
}  # fmt: skip


def page(name: str, words: tuple[str, ...] = ()) -> str:
    """words: choices of groups, whose settings are shown in place of the usual ones."""
    config, width = composed(name, words), min(shutil.get_terminal_size((100, 24)).columns, 120)
    chosen = {key: value for key, value in config.hydra.runtime.choices.items() if not key.startswith("hydra/")}
    blocks = [_opening(name, width)]
    own = comments(CONF / f"{name}.yaml")
    order = _order(CONF / f"{name}.yaml")
    for group in sorted(chosen, key=lambda one: order.index(one) if one in order else len(order)):
        blocks.append("\n".join(_group(config, group, chosen[group], own, width)))
    plain = [str(key) for key in config if key not in chosen and key != "hydra"]
    lines = [line for key in plain for line in _settings(config, key, "", own, width)]
    return "\n\n".join([*blocks, "\n".join(["other settings", *lines]), _closing(name)])


def choices(name: str, words: list[str]) -> tuple[str, ...]:
    """The words that choose of a group. Raises ValueError, a sentence, for what cannot be chosen."""
    chosen = [
        word
        for word in parse_words(name, [w for w in words if not w.startswith("-")])
        if (CONF / word.key_or_group).is_dir()
    ]
    return tuple(str(word.input_line) for word in chosen)


def _opening(name: str, width: int) -> str:
    said = " ".join(header(CONF / f"{name}.yaml")).removeprefix(f"{door_of(name)}: ")
    lines = [f"usage: {door_of(name)} [GROUP=CHOICE ...] [SETTING=VALUE ...]", "", *textwrap.wrap(said, width), ""]
    return "\n".join([*lines, "for example", *(f"  {door_of(name)} {words}" for words in EXAMPLES.get(name, ()))])


def _closing(name: str) -> str:
    return (
        f"A group's other choice has other settings: {door_of(name)} GROUP=CHOICE --help shows them. -m makes a run of "
        f"every value\nin a list a,b,c. --cfg job prints the configuration, --hydra-help what Hydra itself knows."
    )


def _order(file: Path) -> list[str]:
    """The groups as the command's yaml names them."""
    return [str(key) for one in yaml.safe_load(file.read_text())["defaults"] if isinstance(one, dict) for key in one]


def _group(config: DictConfig, group: str, choice: str | None, said: dict[str, str], width: int) -> Iterator[str]:
    """A group: what is chosen, what else could be, and the settings of what is chosen."""
    others = [other for other in options(group.partition("@")[0]) if other != choice]
    yield f"{group}={choice or 'null'}"
    yield from _wrapped(f"or {', '.join(others)}" if others else "", width, " " * INDENT)
    yield from _wrapped(said.get(f"defaults.{group}") or said.get(group, ""), width, " " * INDENT)
    file = CONF / group.partition("@")[0] / f"{choice}.yaml"
    if choice is None or not file.exists():  # e.g. what a dataset wants of the benchmark, where it wants nothing
        return
    yield from _wrapped(" ".join(header(file)), width, " " * INDENT)
    path = (group.partition("@")[2] or group).replace("/", ".")
    if group != "experiment" and OmegaConf.select(config, path, throw_on_resolution_failure=False) is not None:
        own = {key.removeprefix(f"{path}."): text for key, text in said.items() if key.startswith(f"{path}.") and text}
        yield from _settings(config, path, f"{path}.", comments(file) | own, width)


def _settings(config: DictConfig, path: str, below: str, said: dict[str, str], width: int) -> Iterator[str]:
    """below: what stands before the names that `said` has. What only repeats another setting is left out."""
    parent, _, leaf = path.rpartition(".")
    node: Any = OmegaConf.to_container(OmegaConf.select(config, parent) if parent else config)
    if str(node[leaf]).startswith("${") and not str(node[leaf]).startswith("${ekd."):
        return
    value = OmegaConf.select(config, path, throw_on_resolution_failure=False)
    if isinstance(value, DictConfig):
        for key in map(str, value):
            if not key.startswith("_"):
                yield from _settings(config, f"{path}.{key}", below, said, width)
        return
    own = said.get(path.removeprefix(below), "")
    shown = f"{' ' * INDENT}{path}={_spelt(value)}"
    gap = f"{shown:<{VALUE}}" if len(shown) < VALUE else f"{shown}\n{' ' * VALUE}"
    told = textwrap.wrap(own, max(20, width - VALUE)) or [""]
    yield f"{gap}{told[0]}".rstrip()
    yield from (f"{' ' * VALUE}{line}" for line in told[1:])


def _spelt(value: Any) -> str:
    text: str = yaml.safe_dump(
        OmegaConf.to_container(value) if OmegaConf.is_config(value) else value, default_flow_style=True
    )
    return text.removesuffix("...\n").strip().replace("\n ", "")


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent)


def header(file: Path) -> list[str]:
    """What a yaml says of itself, in the comments at its top."""
    lines = [line for line in file.read_text().splitlines() if not line.startswith("# @package")]
    end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return [line.lstrip("# ") for line in lines[:end] if "://" not in line]


@cache
def comments(file: Path) -> dict[str, str]:
    """Dotted key -> what stands behind it or in the lines above it; of the files that it begins with, too."""
    found: dict[str, str] = {}
    above, path = [], []  # type: tuple[list[str], list[tuple[int, str]]]
    content = file.read_text()
    for line in content.splitlines()[len(header(file)) :]:
        match = KEY.match(line)
        if line.strip().startswith("#") or match is None:
            above = [*above, line.strip().lstrip("# ")] if line.strip().startswith("#") else []
            continue
        depth, key, _, behind = len(match[1]), match[2], match[3], match[4]
        path = [(d, k) for d, k in path if d < depth] + [(depth, key)]
        found[".".join(k for _, k in path)] = behind or " ".join(above)
        above = []
    for base in (yaml.safe_load(content) or {}).get("defaults", []):
        if isinstance(base, str) and base != "_self_":
            found = comments(file.with_name(f"{base}.yaml")) | {k: v for k, v in found.items() if v}
    return found
