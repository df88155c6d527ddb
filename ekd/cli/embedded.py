"""A command that names no model and no data does the embedded job, as `make demo` does, with whatever else was said."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from ekd.cli.words import elsewhere
from ekd.method import CONF, SETS

JOB = "experiment=demo"
# Who names one of these knows what to teach, to whom or from what, and gets the defaults of conf/train.yaml.
OWN = re.compile(
    r"[+~]*(experiment|teacher|student|dataset|(teacher|student)\.(model|layers)|(dataset|data\.collector)\.[\w.]+)(=|$)"
)
SHOWING = {"--help", "-h", "--hydra-help", "--version", "--shell-completion", "-sc", "--info", "-i"}
PRESET = re.compile(r"experiment=(\w+)")


def completed(name: str, words: Sequence[str]) -> list[str]:
    """The command line, with the embedded job where it says nothing of one; before a preset that is a method alone."""
    words = list(words)
    if name != "train" or elsewhere(words) or SHOWING & set(words):
        return words
    own = [word for word in words if OWN.match(word)]
    if not own:
        return [*words, JOB]
    preset = PRESET.fullmatch(own[0])
    if len(own) == 1 and preset and is_method(preset[1]):
        return [f"experiment=[demo,{preset[1]}]" if word == own[0] else word for word in words]
    return words


def is_method(preset: str) -> bool:
    """Whether a preset chooses how to learn, and neither from what nor who: such a one stands on the embedded job."""
    file = CONF / "experiment" / f"{preset}.yaml"
    if not file.is_file():
        return False
    known = yaml.safe_load(file.read_text()) or {}
    defaults: list[Any] = known.get("defaults", [])
    chosen = {str(key) for one in defaults if isinstance(one, dict) for key in one}
    based = [one for one in defaults if isinstance(one, str) and one != "_self_"]
    return set(known) <= {"defaults", *SETS} and "override /dataset" not in chosen and not based
