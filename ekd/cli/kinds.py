"""What kind of value each key wants, by the annotations of what it is given to: lr=abc is answered before any work."""

from __future__ import annotations

import inspect
import pydoc
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf

from ekd.cli.signature import signature

WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
    Path: "a path",
}
# The keys that no constructor is given, alike in every door.
PLAIN: dict[str, Any] = {
    "seed": int, "ckpt": str | None, "run": str | None, "out": str | None, "store": str | None, "sweep": str | None,
    "traces": str | None, "save_student": bool, "keep_checkpoints": bool, "plan_gb": float, "viewer": int | None,
    "baselines": dict[str, bool], "controls": bool, "ckpt_from": str | None, "split": str, "problems": int | None,
    "text": str | list[str] | None, "window": int, "max_tokens": int,
    "tasks": list[str], "include": str | None, "shots": int | None, "chat": bool, "limit": int | None,
    "batch_size": int, "top": int, "tokenizer": str | None, "trust_remote_code": bool, "format": str,
    "name": str | None, "dtype": str | None, "converter": str | None, "outtype": str,
}  # fmt: skip
COUNTS = ("viewer",)  # of these, what nobody checks who is given them


def check_kinds(config: DictConfig) -> None:
    """Raises ValueError at the first value that is of no kind that its key takes."""
    for key in config:
        if key in PLAIN:
            _check(str(key), config[key], PLAIN[str(key)])
        if key in COUNTS and (config[key] or 0) < 0:
            raise ValueError(f"{key}={config[key]} is a number of things: give 0 or more")
    for path, node in _actors(config, ""):
        hints = _hints(str(node["_target_"]))
        for key in node:
            if key in hints and not OmegaConf.is_interpolation(node, key):  # else it is said where it is written
                _check(f"{path}.{key}", node[key], hints[str(key)])


def check_typed(config: DictConfig, typed: Collection[str]) -> None:
    """The same of keys that were typed, as far as it can be told before anything is imported."""
    for path, node in _actors(config, ""):
        named = {key: f"{path}.{key}" for key in map(str, node)}
        asked = {key: at for key, at in named.items() if at in typed and not OmegaConf.is_interpolation(node, key)}
        hints = signature(str(node["_target_"])) if asked else {}
        for key in [key for key in asked if key in hints]:
            _check(asked[key], node[key], hints[key])


def fits(value: Any, kind: Any) -> bool:
    """Whether a plain value is of a kind. What is no plain kind (a Loss, a Tensor) is built from a dict, or is null."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if kind in (bool, str, type(None)):
        return isinstance(value, kind)
    if kind in (int, float):
        return isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    if kind is Path:
        return isinstance(value, str)
    if origin in (list, tuple, Sequence, Iterable):
        kinds = [one for one in inner if one is not ...] or [Any]
        return isinstance(value, (list, ListConfig)) and all(fits(v, Union[tuple(kinds)]) for v in value)  # noqa: UP007
    if origin in (dict, Mapping):
        return isinstance(value, (dict, DictConfig)) and (
            "_target_" in value or all(fits(v, inner[1]) for v in value.values())
        )
    return kind is Any or isinstance(value, (dict, DictConfig)) or not _plain(value)


def spell(kind: Any) -> str:
    """A kind in words: "a whole number or null"."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(word for word in map(spell, inner) if word))
    if origin is Literal:
        return ", ".join(str(value) for value in inner)
    if origin in (list, tuple, Sequence, Iterable):
        of = {int: "whole numbers", float: "numbers", str: "texts"}.get(inner[0] if inner else Any, "values")
        return f"a list of {of} such as [a,b]" if of in ("texts", "values") else f"a list of {of} such as [1,2]"
    if origin in (dict, Mapping):
        return "values by name such as {a: 1}"
    return WORDS.get(kind, "a group of values" if inspect.isclass(kind) and kind.__module__.startswith("ekd") else "")


def _check(path: str, value: Any, kind: Any) -> None:
    if not fits(value, kind):
        shown = OmegaConf.to_container(value) if isinstance(value, (DictConfig, ListConfig)) else value
        spelt = "null" if shown is None else str(shown).lower() if isinstance(shown, bool) else repr(shown)
        several = (
            f": -m {path}={','.join(map(str, shown))} makes a run of each" if isinstance(shown, list) and shown else ""
        )
        raise ValueError(f"{path} is {spell(kind) or 'a group of values with a _target_'}, not {spelt}{several}")


def _actors(node: Any, path: str) -> Iterable[tuple[str, DictConfig]]:
    """Every node that names what is built from it, where it is written."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield path, node
        for key in map(str, node):
            if not path and key == "hydra":
                continue
            if not OmegaConf.is_interpolation(node, key) and not OmegaConf.is_missing(node, key):
                yield from _actors(node[key], f"{path}.{key}".lstrip("."))


@cache
def _hints(target: str) -> dict[str, Any]:
    made: Any = pydoc.locate(target)
    if made is None:
        raise ValueError(f"there is no {target}: see the spelling of _target_, and that its package is installed")
    try:
        return get_type_hints(made.__init__ if inspect.isclass(made) else made)
    except NameError:  # a library's annotations that name what it imports for types alone (W&B's logger)
        return {}


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, list, ListConfig))
