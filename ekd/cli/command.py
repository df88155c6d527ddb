"""The command line, before anything is done: every value that it leads to is looked at, and told in a sentence."""

from __future__ import annotations

import difflib
import re
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from ekd.cli.conf import composed, having, like, top_keys
from ekd.cli.kinds import check_kinds, check_typed
from ekd.cli.words import SHARES, check_secret, elsewhere, parse_words, replaced, values
from ekd.method import CONF
from ekd.mistakes import mandatory, sentence
from ekd.renamed import current_key

SHOWING = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"}


def check_command(name: str, words: list[str]) -> list[str]:
    """Raises ValueError, a sentence. Every word is looked at, and every value of a sweep, before a folder is made.

    -> notes on what will be done otherwise than some word says.
    """
    overrides = parse_words(name, words)
    if elsewhere(words):
        composed(name)  # now, because Hydra composes one configuration at a time, and `check_whole_config` asks
    if elsewhere(words) or SHOWING & set(words):  # of another configuration, `settle` looks at what comes of it
        return []
    last = {(word.key_or_group, word.package): word for word in overrides}
    combinations = _combinations(list(last.values()))
    if not {"-m", "--multirun"} & set(words):
        _check_several(name, overrides, combinations[0])
    for chosen in combinations:
        _check_composed(name, chosen)
    return replaced(overrides)


def _check_several(name: str, overrides: list[Override], first: list[Override]) -> None:
    """Several values make a sweep, with -m or with a preset that is one; else a list or a text was meant."""
    several = [word for word in overrides if word.is_sweep_override()]
    if several and composed(name, _shaping(first)).hydra.mode != RunMode.MULTIRUN:
        key, _, value = str(several[0].input_line).partition("=")
        raise ValueError(
            f"{key}={value} has several values: give -m for a run of each, or quote a text for Hydra too: "
            f"'{key}=\"{value}\"', or write a list as {key}=[{value}]"
        )


def check_whole_config(name: str, config: DictConfig) -> None:
    """Of another configuration than ours, at which nobody has looked: it holds what the door reads, in its kinds."""
    absent = sorted(set(map(str, composed(name))) - {"hydra"} - set(map(str, config)))
    if absent:
        raise ValueError(
            f"the configuration that was named has no {absent[0]!r}, which `python -m ekd.{name}` reads: let it begin "
            f"with defaults: [{name}, _self_], give --config-dir FOLDER --config-name NAME, and only what differs"
        )
    check_kinds(config)


def settle(config: Any, path: str = "") -> Any:
    """~ is the home folder, which few shells put behind an =, and 0.2% a number. In place. Refuses secrets."""
    for key in list(config) if isinstance(config, DictConfig) else range(len(config)):
        at = f"{path}.{key}".lstrip(".")
        if OmegaConf.is_missing(config, key) or at == "hydra":
            continue
        if (now := current_key(at)) != at:  # of a yaml of the user's own
            raise ValueError(f"{at} has a new name: write {now}")
        points = OmegaConf.is_interpolation(config, key)  # what it leads to is written, too, if it leads anywhere
        value = OmegaConf.select(config, str(key), throw_on_resolution_failure=False) if points else config[key]
        check_secret(at, value)
        if points:
            continue
        if isinstance(value, (DictConfig, ListConfig)):
            settle(value, at)
        elif isinstance(value, str) and value.startswith("~/"):
            config[key] = str(Path(value).expanduser())
        elif isinstance(value, str) and SHARES.search(str(key)) and re.fullmatch(r"[\d.]+%", value):
            config[key] = float(value[:-1])
    return config


def _combinations(overrides: list[Override]) -> list[list[Override]]:
    """Of a sweep: the first of everything, then every other value once. Not the product, which may be thousands."""
    own = [override for override in overrides if not override.key_or_group.startswith("hydra.sweep")]
    choices = [spelt for spelt in map(_spelt, own) if spelt]
    first = [spelt[0] for spelt in choices]
    others = [(at, other) for at, spelt in enumerate(choices) for other in spelt[1:]]
    return [first, *([*first[:at], other, *first[at + 1 :]] for at, other in others)]


def _spelt(override: Override) -> list[Override]:
    """A word of a sweep as the words of its cells."""
    if not override.is_sweep_override():
        return [override]
    head = str(override.input_line).partition("=")[0]
    return OverridesParser.create().parse_overrides([f"{head}={value}" for value in values(override)])


def _check_composed(name: str, chosen: list[Override]) -> DictConfig:
    words = _shaping(chosen)
    try:
        config = deepcopy(composed(name, words))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ValueError(_explain(name, words, error)) from error
    # A preset may hold values for other doors (experiment=tiny has a benchmark, and ekd.trace none); a word may not.
    typed = {word.key_or_group.split("@")[0].split("/")[0].split(".")[0] for word in chosen}
    if idle := sorted(typed & set(map(str, config)) - {"hydra", *top_keys(name)}):
        raise ValueError(f"nothing reads {idle[0]!r}: {like(name, idle[0])}")
    try:
        for word in chosen:
            if not _shapes(word):
                _set(name, config, words, word)
        HydraConfig.instance().set_config(config)  # what ${hydra:...} in the values asks
        OmegaConf.set_struct(config, False)
        settle(config)
        check_typed(config, {word.key_or_group for word in chosen})
        check_kinds(config)
        if name == "train":
            _check_checkpoint(config.ckpt)
    except OmegaConfBaseException as error:
        raise ValueError(sentence(error) or _line(error)) from error
    return config


def _shaping(chosen: list[Override]) -> tuple[str, ...]:
    return tuple(str(word.input_line) for word in chosen if _shapes(word))


def _shapes(word: Override) -> bool:
    """Whether a word decides which keys there are. Of the others, any number is tried on one composed config."""
    key = word.key_or_group
    return word.type != OverrideType.CHANGE or word.package is not None or (CONF / key).is_dir() or "hydra" in key


def _set(name: str, config: DictConfig, words: tuple[str, ...], word: Override) -> None:
    """key=value, as Hydra does it, after everything that shapes the config."""
    try:
        OmegaConf.update(config, word.key_or_group, word.value(), merge=True)
    except (ConfigAttributeError, ConfigKeyError) as error:
        raise ValueError(_unknown(name, words, word.key_or_group)) from error


def _check_checkpoint(ckpt: str | None) -> None:
    """Before an hour of tracing."""
    if ckpt is None or Path(ckpt).is_dir():  # a folder: of a sharded model
        return
    if not Path(ckpt).is_file():
        raise ValueError(f"there is no checkpoint {ckpt}: a run keeps them in its folder, RUN/checkpoints/last.ckpt")
    if not zipfile.is_zipfile(ckpt):
        raise ValueError(
            f"{ckpt} is no whole checkpoint (cut short or of another kind): give an earlier one, or ckpt=null"
        )


def _explain(name: str, words: tuple[str, ...], error: Exception) -> str:
    """Hydra's own message, and for a key that is not there the keys that are."""
    text = _line(error)
    if "mandatory value" in text.lower():
        return mandatory(error) or text
    if found := re.search(r"Could not append to config\. An item is already at '([\w./@-]+)'", text):
        return f"+{found[1]} adds a key, and {found[1]} is there already: leave the + out"
    if found := re.search(r"Could not (?:override|delete(?: from config\.)?) '([\w./@-]+)", text):
        return _unknown(name, words, found[1])
    if found := re.search(r"Multiple values for ([\w/@]+)", text):
        return f"{found[1]} is chosen twice: give {found[1]}=NAME once, without a +"
    return text


def _unknown(name: str, words: tuple[str, ...], key: str) -> str:
    """A key that is not there: where it lives, which other choice has it, or what is there."""
    *parents, wrong = key.split("@")[0].split(".")
    # Only choices of a group are kept: another key of these may be misspelt too.
    groups = tuple(word for word in words if re.match(r"[\w/]+=", word) and (CONF / word.partition("=")[0]).is_dir())
    node: Any = composed(name, groups)
    chosen = node.hydra.runtime.choices
    for parent in parents:
        node = node[parent] if isinstance(node, DictConfig) and parent in node else None
    known = sorted(str(k) for k in node if k not in ("_target_", "hydra")) if isinstance(node, DictConfig) else []
    close = difflib.get_close_matches(wrong, known, 1)
    if len(parents) == 1 and not close and (others := having(parents[0], wrong)):
        verb = "has" if len(others) == 1 else "have"
        return f"{parents[0]}={chosen.get(parents[0])} has no {wrong!r}; {' and '.join(others)} {verb} it"
    if not isinstance(node, DictConfig):
        return f"there is no {key}: {like(name, wrong)}"
    where = ".".join(parents) or "the configuration"
    hint = f"; did you mean {'.'.join([*parents, close[0]])}?" if close else ""
    if not hint and not parents and (likely := like(name, wrong)).startswith("did"):
        hint = f"; {likely}"
    return f"{where} has no {wrong!r}, it has {', '.join(known) or 'no values'}{hint}"


def _line(error: Exception) -> str:
    """A page of Hydra's as a line."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(("full_key:", "object_type=", "reference_type="))]
    return " ".join(kept)
