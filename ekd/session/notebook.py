"""A command of ekd from Python, in a notebook for example: composed, built and run without `hydra.main`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from ekd.cli.command import check_command, settle
from ekd.cli.door import quiet_libraries, register
from ekd.cli.embedded import completed
from ekd.method import CONF


def compose(*words: str, command: str = "train", folder: Path | str = ".") -> DictConfig:
    """What `python -m ekd.COMMAND words...` works with; a list of values (-m) is no single configuration.

    folder: where a run would write. Its groups become objects by `ekd.cli.door.build`. Raises ValueError, one sentence,
    for a word that means nothing.
    """
    register()
    quiet_libraries()
    whole = completed(command, words)
    for note in check_command(command, whole):
        print(f"note: {note}")
    place = f"hydra.runtime.output_dir={Path(folder).absolute()}"
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose(command, [*whole, place, "hydra.mode=RUN"], return_hydra_config=True)
    HydraConfig.instance().set_config(config)  # what ${hydra:...} in the values asks
    with open_dict(config):
        del config["hydra"]
    settle(config)
    return config


def train_here(*words: str, folder: Path | str) -> dict[str, Any]:
    """`python -m ekd.train words...` in this process, into `folder`. -> what its metrics.json holds.

    Raises what the command would say as ValueError; RuntimeError where it was stopped by Ctrl-C.
    """
    from ekd import train
    from ekd.files import read_json

    config, told = compose(*words, folder=folder), sys.argv
    Path(folder).mkdir(parents=True, exist_ok=True)
    sys.argv = [str(train.__file__), *words]  # run.json keeps the command, so that it can be said again
    try:
        code = train.main(config)
    finally:
        sys.argv = told
    if code:
        raise RuntimeError(f"the run in {folder} was stopped; the same call goes on with ckpt= as it said")
    return dict(read_json(Path(folder) / "metrics.json"))
