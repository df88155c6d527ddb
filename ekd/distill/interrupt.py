"""Ctrl-C during training: finish the step, save, stop. A second one ends at once."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L


class Interrupt(L.Callback):
    """Saves `dirpath`/interrupted.ckpt, from which `ckpt=...` goes on exactly. `path` is None unless it did.

    And `dirpath`/trained.ckpt after the last step, so that what follows may fail; not where that step is one of
    `every`, at which another callback saves. `done`: the checkpoint of the last step.
    """

    def __init__(self, dirpath: str, every: int | None) -> None:
        self.dirpath, self.every = Path(dirpath), every
        self.done: Path | None = None
        self.asked = False
        self.path: Path | None = None
        self._step = 0
        self._former: Any = None

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._former = signal.signal(signal.SIGINT, self._ask)

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        signal.signal(signal.SIGINT, self._former)

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        if self._former is not None:  # the next cell of a sweep has a Ctrl-C of its own
            signal.signal(signal.SIGINT, self._former)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        # Within an optimizer step a partly accumulated gradient would be lost, so its end is waited for.
        stepped, self._step = trainer.global_step != self._step, trainer.global_step
        if stepped and self._is_last(trainer) and (not self.every or self._step % self.every):
            self.done = self.dirpath / "trained.ckpt"
            trainer.save_checkpoint(self.done)
        if not stepped or not trainer.strategy.reduce_boolean_decision(self.asked, all=False):  # all save, or none
            return
        self.path = self.dirpath / "interrupted.ckpt"
        trainer.save_checkpoint(self.path)
        trainer.should_stop = True

    def _is_last(self, trainer: L.Trainer) -> bool:
        student: Any = trainer.lightning_module
        return student.pace.is_over(student.supervised) or trainer.global_step == trainer.max_steps

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nfinishing this step, then saving (Ctrl-C again: stop at once) ...", flush=True)


class Trained:
    """What follows training may fail; it then says from which checkpoint to go on, with nothing to train again."""

    def __init__(self, path: Path | None, other: str, *, here: bool) -> None:
        """path: the checkpoint that is kept for this alone. other: of a last step that another callback saved."""
        self.path, self.kept, self.here = path, path or other, here

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if not self.here:  # one rank speaks and deletes
            return
        if error is not None and self.kept:
            print(f"the training is kept: what follows it is done by the same command with ckpt={self.kept}")
        elif error is None and self.path is not None:
            self.path.unlink(missing_ok=True)
