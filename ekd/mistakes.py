"""A user's mistake in one sentence: a table from kinds of exceptions to what is said.

What is not in the table is a defect of ours, and its traceback is wanted. Kinds go by name, so that nothing is imported
that did not fail: the class that is listed nearest to the exception's own decides.
"""

from __future__ import annotations

import argparse
import errno
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ekd.outside import visible

AGAIN = "then give the same command again: what was written stays"
TORN = (
    "a file of weights or a checkpoint is damaged or cut short ({}): give an earlier one (ckpt=RUN/checkpoints/...), "
    "or delete it and make it again"
)
OTHER = (
    "the weights are of another model than the one that is configured ({}): give the student.* of the run that made "
    "them, or leave ckpt= out"
)
DISK = {
    errno.ENOSPC: f"the disk is full{{}}: free space or write elsewhere (hydra.run.dir=..., EKD_HOME=...), {AGAIN}",
    errno.EDQUOT: f"your quota is used up{{}}: delete something or write elsewhere (hydra.run.dir=...), {AGAIN}",
    errno.EROFS: "the disk{} is read-only: write elsewhere (hydra.run.dir=..., out=..., EKD_HOME=...)",
    errno.EACCES: "no permission{}: change the rights of it, or name another place",
    errno.EPERM: "no permission{}: change the rights of it, or name another place",
    errno.ENOENT: "there is no file or folder{}: name one that exists",
    errno.ENOTDIR: "a file is where a folder is wanted{}: name another folder",
    errno.EISDIR: "a folder is where a file is wanted{}: name the file",
    errno.EEXIST: "there is already something{}: name another place, or move that away",
    errno.ENOTEMPTY: "there is already something{}: name another place, or move that away",
    errno.ENAMETOOLONG: "a name is too long{}: name a shorter place",
    errno.EMFILE: "too many files are open{}: raise the limit (ulimit -n 4096) and start again",
    errno.EIO: f"the disk cannot be read or written{{}} (input/output error): see that it is there, {AGAIN}",
    errno.ESTALE: f"the network disk has gone{{}}: see that it is there, {AGAIN}",
    errno.ELOOP: "links lead in a circle{}: name the real place",
}


class Diverged(ValueError):
    """Numbers of the training are none any more."""


def sentence(error: BaseException) -> str | None:
    """One line, or None for a defect of ours."""
    for kind in type(error).__mro__:
        say = SENTENCES.get(f"{kind.__module__}.{kind.__qualname__}")
        if say is not None:
            said = say(error)
            return None if said is None else visible(" ".join(said.split()))
    return None


def chain(error: BaseException) -> str | None:
    """Hydra wraps what a constructor said: the innermost knows, the others add where it was built."""
    cause = error
    while cause.__cause__ is not None and type(cause).__name__ == "InstantiationException":
        cause = cause.__cause__
    at = re.search(r"full_key: ([\w.]+)", str(error))
    where = f"{at[1]}: " if at else ""
    if absent := re.search(r"Error locating target '([^']+)'", str(error)):
        return f"{where}there is no {absent[1]}: see the spelling of _target_, and that its package is installed"
    if strange := re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(cause)):
        return f"{strange[1]} takes no {strange[2]!r}: leave it out, or choose by method= or by selector=, not by both"
    if lacking := re.search(r"(\w+)\.__init__\(\) missing \d+ required .*: (.+)", str(cause)):
        return f"{where}{lacking[1]} needs {lacking[2]}: set it, or leave its _target_ as it is"
    return str(cause).partition("\nfull_key")[0] if cause is error else sentence(cause)


def disk(error: BaseException) -> str | None:
    """OSError with its path. Without a number it is a library's own message, which says what it missed."""
    assert isinstance(error, OSError)
    if error.errno is None or isinstance(error, ConnectionError):
        return _first(error)
    paths = [str(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes, Path))]
    at = f" at {' and '.join(paths)}" if paths else ""
    known = DISK.get(error.errno)
    return known.format(at) if known else f"the system says {error.strerror or error}{at}: see to that, {AGAIN}"


def torch_said(error: BaseException) -> str | None:
    """RuntimeError is everybody's: only what torch says of files and memory is known to be no defect."""
    text = str(error)
    if "loading state_dict" in text:
        return OTHER.format(_first(error, 1).strip())
    if re.search(r"PytorchStreamReader|zip archive|unexpected EOF|corrupted|Invalid magic number", text):
        return TORN.format(_first(error))
    if "PytorchStreamWriter" in text or "inline_container" in text:
        return DISK[errno.ENOSPC].format(f" ({_first(error)})")
    if "without overflow" in text:
        return f"a number is too large to be computed with ({_first(error)}): set a smaller student.optimizer.lr"
    if "out of memory" in text or "can't allocate memory" in text:
        return (
            "the device's memory is full: set a smaller data.max_tokens (plan=true says which fits), or a larger device"
        )
    return None


def missing_package(error: BaseException) -> str | None:
    assert isinstance(error, ImportError)
    if error.name is None or error.name.split(".")[0] == "ekd":
        return None if error.name else _first(error)
    package = error.name.split(".")[0]
    return f"the package {package} is not installed ({_first(error)}): pip install {package.replace('_', '-')}"


def unreadable_text(error: BaseException) -> str | None:
    return f"a file is not UTF-8 text ({error}): save it as UTF-8, or name another file"


def broken_json(error: BaseException) -> str | None:
    return f"a file is not whole JSON ({error}): it was cut short or changed by hand; name another, or make it again"


def broken_yaml(error: BaseException) -> str | None:
    return f"a file is not YAML ({error}): mend it there, or name another"


def mandatory(error: BaseException) -> str | None:
    key = re.search(r"full_key: ([\w.]+)", str(error)) or re.search(r"value: \W?([\w.]+)", str(error))
    return f"{key[1]} has no value yet: give {key[1]}=..." if key else str(error)


def interpolation(error: BaseException) -> str | None:
    return f"a value points to what is not there: {_first(error)}; in the shell, ${{...}} needs single quotes"


def wandb(error: BaseException) -> str | None:
    return f"W&B: {error}; WANDB_MODE=offline logs on this machine only"


SENTENCES: dict[str, Callable[[BaseException], str | None]] = {
    "builtins.ValueError": str,
    "builtins.UnicodeDecodeError": unreadable_text,
    "json.decoder.JSONDecodeError": broken_json,
    "builtins.OSError": disk,
    "builtins.RuntimeError": torch_said,
    "builtins.ModuleNotFoundError": missing_package,
    "_pickle.UnpicklingError": lambda error: TORN.format(_first(error)),
    "builtins.EOFError": lambda error: TORN.format("it ends too early"),
    "zipfile.BadZipFile": lambda error: TORN.format(_first(error)),
    "safetensors._safetensors_rust.SafetensorError": lambda error: TORN.format(_first(error)),
    "torch.OutOfMemoryError": torch_said,
    "lightning.fabric.utilities.exceptions.MisconfigurationException": str,
    "lightning.pytorch.utilities.exceptions.MisconfigurationException": str,
    "yaml.error.YAMLError": broken_yaml,
    "hydra.errors.InstantiationException": chain,
    "hydra.errors.HydraException": str,
    "omegaconf.errors.MissingMandatoryValue": mandatory,
    "omegaconf.errors.InterpolationResolutionError": interpolation,
    "omegaconf.errors.InterpolationKeyError": interpolation,
    "wandb.errors.errors.Error": wandb,
}


class Parser(argparse.ArgumentParser):
    """argparse, whose refusals are one sentence without the page of usage."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {visible(message)}; see `{self.prog} --help`", file=sys.stderr)
        sys.exit(2)


def _first(error: BaseException, line: int = 0) -> str:
    """A line of a message that may be a page."""
    lines = [text for text in str(error).splitlines() if text.strip()] or [type(error).__name__]
    return lines[min(line, len(lines) - 1)][:300].rstrip(".")
