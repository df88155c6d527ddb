"""A command that names no model and no data does the embedded job, as `make demo` does, with whatever else was said."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ekd.cli.words import elsewhere

JOB = "experiment=demo"
# Who names one of these knows what to teach, to whom or from what, and gets the defaults of conf/train.yaml.
OWN = re.compile(
    r"[+~]*(experiment|teacher|student|dataset|prompt|teacher_prompt|source|policy"
    r"|(teacher|student)\.(model|layers)|(dataset|prompt|teacher_prompt|source|policy)\.[\w.]+|data\.collector\.[\w.]+)(=|$)"
)
SHOWING = {"--help", "-h", "--hydra-help", "--version", "--shell-completion", "-sc", "--info", "-i"}


def job(name: str, words: Sequence[str]) -> list[str]:
    """What to add to the command line: the embedded job, or nothing."""
    if name != "train" or elsewhere(list(words)) or SHOWING & set(words) or any(map(OWN.match, words)):
        return []
    return [JOB]
