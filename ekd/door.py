"""What every door does alike: find conf/, let Hydra compose, build objects, and say in one sentence what is wrong."""

from __future__ import annotations

import difflib
import hashlib
import logging
import netrc
import os
import re
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlparse

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from ekd.label import run_name, sweep_name, tags

PACKAGE = Path(__file__).parent
# A wheel carries conf/ inside the package; a checkout has it beside.
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())

LAUNCHED = "EKD_LAUNCHED"  # an environment variable: a launcher's processes and a run's ranks inherit it

# Nested dataclasses must arrive as themselves, not as DictConfigs without methods: see DESIGN, traps.
build: Callable[..., Any] = partial(hydra.utils.instantiate, _convert_="all")


def door(name: str, work: Callable[[DictConfig], int | None], value: Callable[[Path], float] | None = None) -> NoReturn:
    """Run `work` on conf/<name>.yaml and the command line. Exit code 0, 2 after one sentence, 130 after Ctrl-C.

    value: of a finished run's folder, what a searching sweeper (Optuna) makes small.
    """
    register()
    _check_secrets()
    _check_keys(name)
    os.environ.setdefault(LAUNCHED, datetime.now(timezone.utc).isoformat(timespec="seconds"))  # of all cells of a sweep

    code = 0

    def task(config: DictConfig) -> float | None:
        nonlocal code
        ended = 1
        _quiet()
        run, sweeps = Path(HydraConfig.get().runtime.output_dir), HydraConfig.get().mode == RunMode.MULTIRUN
        note = run / "failed.txt"
        if sweeps and not (run / "metrics.json").exists():  # else only what followed the work failed: it may mend that
            note.unlink(missing_ok=True)
        try:
            ended = work(config) or 0
            if sweeps:  # of a single run, whose folder may be the user's own, no such note is ours
                note.unlink(missing_ok=True)
            code = max(code, ended)
            _forget_ranks()
            if code == 130 and sweeps:
                raise KeyboardInterrupt
            return value(run) if value and sweeps else None
        except KeyboardInterrupt:
            _stopped()
        except Exception as error:  # any: a cell keeps its defect and the others go on; a single run raises it
            sentence = _sentence(error)
            if sweeps:
                _failed(run, sentence)
                return None
            if sentence is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            _stop(sentence)
        finally:
            if "wandb" in sys.modules:  # or the next job of a sweep would log into this one's run
                sys.modules["wandb"].finish(exit_code=ended)

    task.__module__ = "__main__"
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(task)()
    except KeyboardInterrupt:  # between the cells of a sweep, or while waiting for those in other processes
        _stopped()
    sys.exit(code)


def register() -> None:
    """The functions that conf/ may call."""
    known: dict[str, Callable[..., Any]] = {
        "offline": offline,
        "run_name": run_name,
        "sweep_name": sweep_name,
        "tags": tags,
    }
    for name, function in known.items():
        OmegaConf.register_new_resolver(f"ekd.{name}", function, replace=True)


def offline() -> bool:
    """Whether W&B has no key to upload with: neither WANDB_API_KEY nor one left by `wandb login`."""
    mode, known = os.environ.get("WANDB_MODE"), ("online", "offline", "disabled", "shared", "dryrun", "run")
    if mode and mode not in known:
        _stop(f"WANDB_MODE is online, offline or disabled, not {mode!r}; unset it, or set WANDB_MODE=offline")
    if mode:
        return mode in ("offline", "dryrun")
    if os.environ.get("WANDB_API_KEY"):
        return False
    file = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    server = urlparse(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname
    return not (file.is_file() and netrc.netrc(file).authenticators(str(server)))


def wandb_settings(**settings: Any) -> dict[str, Any]:
    """Silence holds from now on: Lightning's first call has an argument that W&B would say is out of date."""
    import wandb

    wandb.termsetup(wandb.Settings(**settings), None)
    return settings


def provenance() -> dict[str, Any]:
    """What made a result: the command, ekd's version and the git commit it ran from (None outside a checkout)."""
    from importlib.metadata import version

    def git(*words: str) -> str | None:
        done = subprocess.run(["git", "-C", str(PACKAGE), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    code = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        code.update(file.read_bytes())
    changed = git("status", "--porcelain", "--untracked-files=no", "--", str(PACKAGE), str(CONF))
    return {
        "command": sys.argv,
        "launched": os.environ.get(LAUNCHED),  # when, UTC: alike in all cells that one command started
        "ekd": version("ekd"),
        "code": code.hexdigest()[:16],  # of ekd's own sources, committed or not
        "commit": git("rev-parse", "HEAD"),
        "changed": None if changed is None else bool(changed),
        "versions": {name: version(name) for name in ("torch", "lightning", "transformers", "hydra-core")},
    }


def name_job() -> None:
    """Lightning starts further ranks by running this command again: in a sweep that is to be this job, not all."""
    job = HydraConfig.get()
    if job.mode != RunMode.MULTIRUN:
        return
    sys.argv[1:] = list(job.overrides.task)
    with read_write(job.run):  # type: ignore[arg-type] # a DictConfig, whatever its annotation says
        job.run.dir = job.runtime.output_dir


def _failed(run: Path, sentence: str | None) -> None:
    """A cell of a sweep that did not work out, on paper; `ekd.multirun` names it at the end."""
    print(f"failed      {run}: {sentence or traceback.format_exc()}", file=sys.stderr)
    try:
        (run / "failed.txt").write_text(sentence or traceback.format_exc())
    except OSError as error:  # a full disk must not stop the others, which may end elsewhere
        print(f"failed      {run}/failed.txt: {error}", file=sys.stderr)


def _forget_ranks() -> None:
    """The next job of a sweep starts ranks of its own."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
        for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)


def _quiet() -> None:
    """Warnings only: progress and results are printed, and Lightning's tips are not news to anyone."""
    import lightning.pytorch  # noqa: F401 (it sets its own log level when imported)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()

    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        for child in [name, *(other for other in logging.root.manager.loggerDict if other.startswith(f"{name}."))]:
            logging.getLogger(child).setLevel(logging.WARNING)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for noise in (
        "isinstance(treespec",
        "does not have many workers",
        "smaller than the logging",
        "`gradient_checkpointing_enable` is deprecated",
    ):
        warnings.filterwarnings("ignore", f".*{re.escape(noise)}")


def _stopped() -> NoReturn:
    print("\nstopped; the same command goes on where it was", file=sys.stderr)
    sys.exit(130)


def _stop(sentence: str) -> NoReturn:
    rank = os.environ.get("LOCAL_RANK", "0")  # the others mostly have the same to say
    print(f"error: {sentence}" if rank == "0" else f"rank {rank}: {sentence}", file=sys.stderr)
    sys.exit(2)


def _sentence(error: BaseException) -> str | None:
    """The user's own mistake, or None for a defect of ours, whose traceback is wanted."""
    cause: BaseException | None = error
    while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
        cause = cause.__cause__
    if "wandb" in sys.modules and isinstance(cause, sys.modules["wandb"].errors.Error):
        return f"W&B: {' '.join(str(cause).split())}; WANDB_MODE=offline logs on this machine only"
    strange = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(cause))
    if isinstance(error, InstantiationException) and strange:
        return f"{strange[1]} takes no {strange[2]!r}: leave it out, or choose by method= or by selector=, not by both"
    return str(cause) if isinstance(cause, ValueError) else None


def _check_secrets() -> None:
    """Before Hydra writes the command line into the run's folder."""
    for word in sys.argv[1:]:
        if re.search(r"://[^/\s]*@", word):
            key = re.match(r"[\w.@/+~]+(?==)", word)
            _stop(
                f"{key[0] if key else 'an argument'} has a URL with a user or a password in it, which "
                "would be written into the run's files: leave them out; a key for a teacher's server is read "
                "from the environment variable that teacher.api_key_env names"
            )


def _check_keys(name: str) -> None:
    """Compose once before Hydra does, to answer a misspelt key or group with the names that exist."""
    overrides = [word for word in sys.argv[1:] if "=" in word and not word.startswith(("-", "hydra"))]
    for word in overrides:  # a sweep's, too
        _check_choices(*word.split("=", 1))
    if any(flag in sys.argv for flag in ("-m", "--multirun", "--help", "-h", "--cfg", "-c", "--info")):
        overrides = [
            word for word in overrides if "," not in word and not re.search(r"(choice|range|interval)\(", word)
        ]
    if any(word.startswith(("--config", "-cn", "-cp", "-cd")) for word in sys.argv[1:]):
        return
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            hydra.compose(name, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        _stop(_explain(name, overrides, error))


def _check_choices(group: str, values: str) -> None:
    folder = CONF / group
    known = sorted(file.stem for file in folder.glob("*.yaml")) if re.fullmatch(r"[\w/]+", group) else []
    for value in values.split(",") if known and re.fullmatch(r"[\w,]+", values) else []:
        if value not in (*known, "null"):
            close = difflib.get_close_matches(value, known, 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            _stop(f"there is no {group}={value}{hint}; there is {', '.join(known)}")


def _explain(name: str, overrides: list[str], error: Exception) -> str:
    """Hydra's own message, and for a key that is not there the keys that are."""
    text = " ".join(str(error).split("\n"))
    found = re.search(r"Could not override '([\w./@-]+)'", text)
    if found is None:
        return str(error)
    *parents, wrong = found[1].split(".")
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        # Only choices of a group are kept: another key of these may be misspelt too.
        groups = [word for word in overrides if (CONF / word.partition("=")[0].split("@")[0].lstrip("+~")).is_dir()]
        node: Any = hydra.compose(name, groups)
    for parent in parents:
        node = node[parent] if isinstance(node, DictConfig) and parent in node else None
    known = sorted(str(k) for k in node if k != "_target_") if isinstance(node, DictConfig) else []
    if not known:
        return f"there is no {found[1]}; see `python -m ekd.{name} --help`"
    where = ".".join(parents) or "the configuration"
    close = difflib.get_close_matches(wrong, known, 1)
    hint = f"; did you mean {'.'.join([*parents, close[0]])}?" if close else ""
    return f"{where} has no {wrong!r}, it has {', '.join(known)}{hint}"
