"""The command line, word by word: what Hydra would not take, or would take wrongly, in a sentence."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException

from ekd.cli.conf import composed, door_of, like, options, top_keys
from ekd.cli.famous import here
from ekd.method import CONF
from ekd.renamed import current_word

# Hydra's own flags, and which of them take the word that follows.
FLAGS = ("--help", "-h", "--hydra-help", "--version", "--resolve", "--multirun", "-m", "--shell-completion", "-sc")
TAKING = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
          "--experimental-rerun", "--info", "-i")  # fmt: skip
FOLDERS = ("--config-path", "-cp", "--config-dir", "-cd")  # of the working folder, or beside the command's code
CHOICES = {
    ("--cfg", "-c"): ("job", "hydra", "all"),
    ("--info", "-i"): ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
# A percentage below 1 is so rarely wanted that it is written as 0.2%.
SHARES = re.compile(r"(^|[._])(\w*percent|lower|upper|lowest)$")
SECRET_NAME = re.compile(
    r"(^|[._-])((api|secret|access|private)_?key|(^|(hf|api|hub|auth|access)_)token|secret|password|passwd|authorization)$",
    re.IGNORECASE,
)
SECRET_VALUE = re.compile(
    r"\b(sk-[\w-]{8,}|hf_\w{20,}|gh[pousr]_\w{20,}|xox[abp]-[\w-]{8,}|AKIA[0-9A-Z]{16}|Bearer\s+\S+)"
)
URL_USER = re.compile(r"://[^/\s]*@")
ENVIRONMENT = (
    "would be written into the run's files: leave it out; a key for a teacher's server is read from the environment "
    "variable that teacher.api_key_env names, W&B's from WANDB_API_KEY, the hub's from HF_TOKEN"
)


def parse_words(name: str, words: list[str]) -> list[Override]:
    """The words that are values, parsed. Raises ValueError, a sentence."""
    for word in words:
        check_renamed(word)
        key, given, value = word.partition("=")
        whole = not given or not re.fullmatch(r"[\w.@/+~-]+", key)
        check_secret("an argument" if whole else key.lstrip("+~-"), word if whole else value)
    overrides = [_parsed(name, word) for at, word in enumerate(words) if not _flag(name, at, words)]
    for override in overrides:
        _check_share(override)
        if not elsewhere(words):
            _check_choices(name, override)
            _check_top(name, override)
    return overrides


def check_renamed(word: str) -> None:
    if (now := current_word(word)) != word:
        raise ValueError(f"{word} has a new name: write {now}")


def elsewhere(words: list[str]) -> bool:
    """Whether the configuration is another than ours, or has more in another place."""
    return any(word.startswith(("--config", "-cn", "-cp", "-cd", "--experimental")) for word in words)


def check_secret(key: str, value: Any) -> None:
    """What is in a config is in run.json, in the logs and on the report's page."""
    if not isinstance(value, str):
        return
    if URL_USER.search(value):
        raise ValueError(f"{key} has a URL with a user or a password in it, which {ENVIRONMENT}")
    named = SECRET_NAME.search(key) and value not in ("", "null")
    if named or SECRET_VALUE.search(value) or any(secret in value for secret in _exported()):
        raise ValueError(f"{key} holds what looks like a key or a password, which {ENVIRONMENT}")
    if key.endswith("api_key_env") and value != "null" and not re.fullmatch(r"[A-Za-z_]\w*", value):
        raise ValueError(f"{key} is the name of an environment variable; what was given is none and {ENVIRONMENT}")


def _exported() -> list[str]:
    """Keys that the environment holds, as `${oc.env:MY_API_KEY}` or the shell would put them into any value."""
    return [value for name, value in os.environ.items() if len(value) >= 8 and SECRET_NAME.search(name)]


def replaced(overrides: list[Override]) -> list[str]:
    """Sentences on words that later ones replace, as Hydra has it: commands are often made by appending to others."""
    last = {(word.key_or_group, word.package): word for word in overrides}
    gone = [(word, last[word.key_or_group, word.package]) for word in overrides]
    return [f"{a.input_line} is replaced by the later {b.input_line}" for a, b in gone if a.input_line != b.input_line]


def values(override: Override) -> list[str]:
    """Each value of a word; of an interval none, which a search draws from."""
    if override.is_sweep_override():
        return [] if override.is_interval_sweep() else [str(v) for v in override.sweep_string_iterator()]
    return [str(override.input_line).partition("=")[2]]


def _flag(name: str, at: int, words: list[str]) -> bool:
    """Whether a word is Hydra's own flag or belongs to one."""
    word = words[at]
    _check_flag(word, words[at + 1] if at + 1 < len(words) else "")
    if word in FLAGS or word.partition("=")[0] in TAKING or (at and words[at - 1] in TAKING):
        return True
    if not word.startswith("-"):
        return False
    flag, _, value = word.partition("=")
    value = value or (words[at + 1] if at + 1 < len(words) and not words[at + 1].startswith("-") else "")
    known = here(flag, value) if name in ("train", "trace") else None
    told = f"here it is {known}" if known else like(name, flag.lstrip("-").replace("-", "_"))
    raise ValueError(f"{flag} is no flag of ekd, whose values are written KEY=VALUE without dashes: {told}")


def _check_flag(word: str, following: str) -> None:
    """Hydra would answer with the page of its usage."""
    flag, given, value = word.partition("=")
    value = value if given else following
    if flag not in TAKING or (flag in ("--info", "-i") and not value):
        return
    if not value or (not given and value.startswith("-")):
        raise ValueError(f"{flag} wants a word behind it, and there is none: {flag} NAME")
    if flag in FOLDERS and not any((base / value).is_dir() for base in (Path(), Path(__file__).parent)):
        raise ValueError(f"{flag} {value}: there is no such folder")
    if flag == "--experimental-rerun":
        raise ValueError(
            f"{flag} reads a pickle, which may hold code: give the words of RUN/.hydra/overrides.yaml again"
        )
    for flags, known in CHOICES.items():
        if flag in flags and value not in known:
            raise ValueError(f"{flag} is one of {', '.join(known)}, not {value!r}")


def _parsed(name: str, word: str) -> Override:
    if word.strip() in ("", "="):
        raise ValueError(
            f"an empty word {word!r} is on the command line: leave it out (a line that ends in \\ goes on)"
        )
    if "=" not in word and not word.startswith("~"):
        group = word if (CONF / word).is_dir() else None
        known = here(word) if name in ("train", "trace") and group is None else None
        hint = f"{group}=NAME, one of {', '.join(options(group))}" if group else f"here it is {known}" if known else ""
        raise ValueError(f"{word!r} is not KEY=VALUE: {hint or _owner(word) or like(name, word)}")
    key, _, value = word.partition("=")
    if re.match(r"\W*~/", value):
        home = word.replace("~/", f"{Path.home()}/")
        raise ValueError(f"{word!r}: a ~ behind the = is no home folder to most shells nor to Hydra: write {home}")
    if not key.strip("+~"):
        raise ValueError(f"{word!r} is not KEY=VALUE: there is no key before its =")
    if key != key.strip() or value[:1].isspace():
        raise ValueError(f"{word!r} has spaces around its =: write {key.strip()}={value.strip()}")
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        why = str(error).splitlines()[0]
        raise ValueError(
            f"{word!r} is not read by Hydra's grammar ({why}); a text with spaces, commas, brackets, braces, colons or "
            f"= in it is quoted twice, for the shell and for Hydra: '{key}=\"{value.strip(chr(34) + chr(39))}\"'"
        ) from error


def _owner(choice: str) -> str:
    """selector=topk, for topk alone."""
    files = sorted(CONF.glob(f"*/{choice}.yaml")) if re.fullmatch(r"\w+", choice) else []
    return f"did you mean {' or '.join(f'{file.parent.name}={choice}' for file in files)}?" if files else ""


def _check_choices(name: str, override: Override) -> None:
    """A group's choice that is not there."""
    group, given = override.key_or_group, str(override.input_line).partition("=")[2]
    known = options(group) if re.fullmatch(r"[\w/]+", group) else []
    if known and override.type == OverrideType.CHANGE and override.package is None:
        _check_group(name, group)
    for value in given.split(",") if known and re.fullmatch(r"[\w,/.-]+", given) else []:
        if value not in known and not (CONF / group / f"{value}.yaml").is_file():
            close = difflib.get_close_matches(value, known, 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ValueError(f"there is no {group}={value}{hint}; there is {', '.join(known)}")


def _check_group(name: str, group: str) -> None:
    """A group of another command."""
    theirs = [known for known in composed(name).hydra.runtime.choices if not known.startswith("hydra/")]
    if group not in [known.partition("@")[0] for known in theirs] and not group.startswith("hydra/"):
        known = f"its groups are {', '.join(sorted(theirs))}" if theirs else "it has no groups"
        raise ValueError(f"nothing reads {group}= in `{door_of(name)}`: {known}")


def _check_share(override: Override) -> None:
    """0.2 where percent are meant."""
    if not SHARES.search(override.key_or_group):
        return
    for value in values(override):
        if re.fullmatch(r"0?\.\d+", value) and float(value) > 0:
            key, percent = override.key_or_group, f"{100 * float(value):g}"
            raise ValueError(
                f"{key}={value} looks like a fraction, and {key} is in percent: write {key}={percent}, "
                f"or {key}={value}% if so little is meant"
            )


def _check_top(name: str, override: Override) -> None:
    """A word that other programs know, as a key of its own."""
    key = override.key_or_group
    if name in ("train", "trace") and key not in top_keys(name) and not (CONF / key).is_dir() and (there := here(key)):
        raise ValueError(f"there is no key {key!r} at the top: here it is {there}")
