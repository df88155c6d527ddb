"""Where training is: steps of the whole run (or tokens, where they end it), time left, loss, KL, tokens a second."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar as LightningBar
from lightning.pytorch.trainer.states import TrainerFn

from ekd.models.progress import ProgressBar

NOTED = {"train/loss": "loss {:.3g}", "val/kl": "KL {:.3g}", "train/tokens_per_second": "{:,.0f} tokens/s"}


class TrainingBar(LightningBar):
    """Takes the place of Lightning's own bars. Of several ranks the first draws; quiet: nobody does.

    Validation has a bar of its own, below the run's, and is gone when it is over.
    """

    def __init__(self, *, quiet: bool) -> None:
        super().__init__()
        self.quiet = quiet
        self.whole: ProgressBar | None = None
        self.reading: ProgressBar | None = None

    def disable(self) -> None:
        """Lightning's word, on all ranks but the first."""
        self.quiet = True

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        total, unit = _extent(trainer, module)
        self.whole = ProgressBar("training", total, done=_done(trainer, module), unit=unit, quiet=self.quiet)
        self.whole.__enter__()

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        if self.whole is not None and not self.quiet:
            found = trainer.callback_metrics
            said = [text.format(float(found[name])) for name, text in NOTED.items() if name in found]
            self.whole.update(_done(trainer, module), ", ".join(said))

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        self._close()

    def on_validation_start(self, trainer: L.Trainer, module: Any) -> None:
        batches, within = sum(trainer.num_val_batches), trainer.state.fn == TrainerFn.FITTING
        total = None if batches == float("inf") else int(batches)
        self.reading = ProgressBar("held-out KL", total, unit="batches", quiet=self.quiet, transient=within)
        self.reading.__enter__()

    def on_validation_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        if self.reading is not None:
            self.reading.update(self.reading.done + 1)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        self._close_reading()

    def on_exception(self, trainer: L.Trainer, module: Any, exception: BaseException) -> None:
        self._close()

    def _close_reading(self) -> None:
        if self.reading is not None:
            self.reading.__exit__()
            self.reading = None

    def _close(self) -> None:
        self._close_reading()
        if self.whole is not None:
            self.whole.__exit__()
            self.whole = None


def _extent(trainer: L.Trainer, module: Any) -> tuple[int | None, str]:
    """How much there is to train, None where nobody knows, and of what."""
    if module.pace.supervised_tokens is not None:
        return module.pace.supervised_tokens, "tokens"
    steps = trainer.estimated_stepping_batches
    return (None if steps == float("inf") else int(steps)), "steps"


def _done(trainer: L.Trainer, module: Any) -> int:
    return trainer.global_step if module.pace.supervised_tokens is None else int(module.supervised)
