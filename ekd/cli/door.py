"""What every door does alike: find conf/, let Hydra compose, build objects, and say in one sentence what is wrong."""

from __future__ import annotations

import hashlib
import logging
import netrc
import os
import re
import shutil
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlparse

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write

from ekd.cli.alert import alert
from ekd.cli.collecting import nothing_collected
from ekd.cli.command import check_command, check_whole_config, settle
from ekd.cli.conf import PACKAGE
from ekd.cli.embedded import completed
from ekd.cli.helping import choices, page
from ekd.cli.label import run_name, sweep_name, tags
from ekd.cli.words import elsewhere
from ekd.method import CONF
from ekd.mistakes import sentence

LAUNCHED = "EKD_LAUNCHED"  # an environment variable: a launcher's processes and a run's ranks inherit it

# Nested dataclasses must arrive as themselves, not as DictConfigs without methods: see DESIGN, traps.
build: Callable[..., Any] = partial(hydra.utils.instantiate, _convert_="all")


def door(name: str, work: Callable[[DictConfig], int | None], value: Callable[[Path], float] | None = None) -> NoReturn:
    """Run `work` on conf/<name>.yaml and the command line. Exit code 0, 2 after one sentence, 130 after Ctrl-C.

    value: of a finished run's folder, what a searching sweeper (Optuna) makes small.
    """
    register()
    if {"--help", "-h"} & set(sys.argv[1:]) and not elsewhere(sys.argv[1:]):
        _help(name, sys.argv[1:])
    sys.argv[1:] = completed(name, sys.argv[1:])
    try:
        with nothing_collected():  # most imports happen there
            notes = check_command(name, sys.argv[1:])
        print(*(f"note: {note}\n" for note in notes), sep="", end="", file=sys.stderr)
    except ValueError as mistake:
        _stop(sentence(mistake) or str(mistake))
    os.environ.setdefault(LAUNCHED, datetime.now(timezone.utc).isoformat(timespec="seconds"))  # of all cells of a sweep

    jobs = Jobs(name, work, value, os.environ.get("HYDRA_FULL_ERROR") == "1")

    def task(config: DictConfig) -> float | None:  # a function: Hydra looks for its file
        return jobs.run(config)

    task.__module__ = "__main__"
    _hydra_reports(True)  # its refusals and those of the disk, before the work begins, arrive here
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(task)()
    except KeyboardInterrupt:  # between the cells of a sweep, or while waiting for those in other processes
        _stopped()
    except Exception as error:  # any: what is no known kind goes on as it came
        said = sentence(error)
        if said is None or jobs.traceback_wanted:
            raise
        _stop(said)
    finally:
        _hydra_reports(jobs.traceback_wanted)
    sys.exit(jobs.code)


@dataclass
class Jobs:
    """What Hydra starts, once for a run and once for each cell of a sweep; and the worst exit code among them."""

    name: str
    work: Callable[[DictConfig], int | None]
    value: Callable[[Path], float] | None
    traceback_wanted: bool
    code: int = 0

    def run(self, config: DictConfig) -> float | None:
        _hydra_reports(self.traceback_wanted)
        quiet_libraries()
        run, sweeps = Path(HydraConfig.get().runtime.output_dir), HydraConfig.get().mode == RunMode.MULTIRUN
        note, ended = run / "failed.txt", 1
        if sweeps and not (run / "metrics.json").exists():  # else only what followed the work failed: it may mend that
            note.unlink(missing_ok=True)
        try:
            ended = self.work(_settled(self.name, config, run)) or 0
            if sweeps:  # of a single run, whose folder may be the user's own, no such note is ours
                note.unlink(missing_ok=True)
            self.code = max(self.code, ended)
            _forget_ranks()
            if self.code == 130 and sweeps:
                raise KeyboardInterrupt
            return self.value(run) if self.value and sweeps else None
        except KeyboardInterrupt:
            _stopped()
        except Exception as error:  # any: a cell keeps its defect and the others go on; a single run raises it
            said = sentence(error)
            alert(error, said or traceback.format_exc())
            if sweeps:
                _failed(run, said)
                return None
            if said is None or self.traceback_wanted:
                raise
            _clear(run)
            _stop(said)
        finally:
            if "wandb" in sys.modules:  # or the next job of a sweep would log into this one's run
                sys.modules["wandb"].finish(exit_code=ended)


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


def _help(name: str, words: list[str]) -> NoReturn:
    """Ours in place of Hydra's, which names neither what a setting means nor which others there are."""
    try:
        print(page(name, choices(name, words)))
    except ValueError as mistake:
        _stop(str(mistake))
    sys.exit(0)


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
    """Lightning starts further ranks by running this command again: in a sweep that is to be this job, not all.

    Raises ValueError where the command is another program's, which started this job.
    """
    job = HydraConfig.get()
    if job.mode != RunMode.MULTIRUN:
        return
    starter = getattr(sys.modules["__main__"].__spec__, "name", "ekd")
    if not starter.startswith("ekd"):
        raise ValueError(
            f"this cell was started by {starter.split('.')[0]} (hydra/launcher), and further ranks are started by "
            "running the cell's own command again: leave hydra/launcher out, or give each cell trainer.devices=1"
        )
    sys.argv[1:] = list(job.overrides.task)
    with read_write(job.run):  # type: ignore[arg-type] # a DictConfig, whatever its annotation says
        job.run.dir = job.runtime.output_dir


def _hydra_reports(wanted: bool) -> None:
    """Whether Hydra lets an exception through (1), or prints it and exits. Ranks and jobs inherit the variable."""
    if wanted:
        os.environ["HYDRA_FULL_ERROR"] = "1"
    else:
        os.environ.pop("HYDRA_FULL_ERROR", None)


def _settled(name: str, config: DictConfig, run: Path) -> Any:
    """Refuses what only Hydra knew, a secret in a file or half a configuration, and takes away what it wrote of it."""
    try:
        settle(config)
        if elsewhere(sys.argv[1:]):
            check_whole_config(name, config)
        return config
    except ValueError:
        shutil.rmtree(run / ".hydra", ignore_errors=True)
        raise


def _clear(run: Path) -> None:
    """A run that was refused before it wrote anything leaves no folder: only what Hydra put there goes."""
    hydras = {".hydra", f"{HydraConfig.get().job.name}.log"}
    if not run.is_dir() or {file.name for file in run.iterdir()} - hydras:
        return
    shutil.rmtree(run / ".hydra", ignore_errors=True)
    for handler in [h for h in logging.root.handlers if isinstance(h, logging.FileHandler)]:
        logging.root.removeHandler(handler)  # it would make its file anew
        handler.close()
    for folder in (run, *run.parents):
        for log in folder.glob("*.log") if folder == run else []:
            log.unlink()
        if folder == Path.cwd() or any(folder.iterdir()):
            return
        folder.rmdir()


def _failed(run: Path, said: str | None) -> None:
    """A cell of a sweep that did not work out, on paper; `ekd.cli.multirun` names it at the end."""
    print(f"failed      {run}: {said or traceback.format_exc()}", file=sys.stderr)
    try:
        (run / "failed.txt").write_text(said or traceback.format_exc())
    except OSError as error:  # a full disk must not stop the others, which may end elsewhere
        print(f"failed      {run}/failed.txt: {error}", file=sys.stderr)


def _forget_ranks() -> None:
    """The next job of a sweep starts ranks of its own."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
        for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)


def quiet_libraries() -> None:
    """Warnings only: progress and results are printed, and Lightning's tips are not news to anyone."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported; who says disable=False still has a bar
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
        "`is_gradient_checkpointing` is deprecated",
    ):
        warnings.filterwarnings("ignore", f".*{re.escape(noise)}")


def _stopped() -> NoReturn:
    print("\nstopped; the same command goes on where it was", file=sys.stderr)
    sys.exit(130)


def _stop(sentence: str) -> NoReturn:
    rank = os.environ.get("LOCAL_RANK", "0")  # the others mostly have the same to say
    print(f"error: {sentence}" if rank == "0" else f"rank {rank}: {sentence}", file=sys.stderr)
    sys.exit(2)
