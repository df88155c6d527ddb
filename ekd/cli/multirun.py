"""What Hydra is told about sweeps: at the end of one, what is finished, what failed, and how to see it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class Sweep(Callback):
    """A failed cell does not stop the others; it is named at the end, and the exit code is 1."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            failed = _conclude(config)
        except ValueError as error:  # Hydra would make a warning of it
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        if failed:
            print(f"{failed} failed, see failed.txt there; the same command tries them again", file=sys.stderr)
            sys.exit(1)


def _conclude(config: DictConfig) -> int:
    """The controls that are missing, a table, and the page. -> how many cells failed"""
    from rich import print as show

    from ekd.cli.controls import train_controls
    from ekd.report.outcome import outcome
    from ekd.report.page import open_line
    from ekd.report.pages import sweep_page

    folder = Path(config.hydra.sweep.dir)
    view, failed = outcome(folder)
    if config.controls and view.row_count > failed:
        worst = train_controls(folder, list(config.hydra.overrides.hydra))
        if worst == 130:
            raise KeyboardInterrupt
        view, failed = outcome(folder)
        failed += worst > 1  # a control that did not begin has left no cell; it has said why
    show(view)
    if view.row_count > failed:
        print(f"page        {open_line(sweep_page(folder))}")
    return failed


def band(config: DictConfig, trial: Any) -> None:
    """Optuna's search space: bands at least 5 percentiles wide. trial: an optuna.Trial; names are overrides."""
    lower = trial.suggest_int("selector.lower", 0, 95)
    trial.suggest_int("selector.upper", lower + 5, 100)
