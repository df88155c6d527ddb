"""The bar of training counts what ends the run."""

from __future__ import annotations

from types import SimpleNamespace as Fake

import pytest
from lightning.pytorch.trainer.states import TrainerFn

from ekd.distill.training_bar import TrainingBar


@pytest.mark.parametrize(
    ("tokens", "said"), [(None, "training: 3/8 steps, 0:00, "), (1000, "training: 600/1,000 tokens, 0:00, ")]
)
def test_it_counts_steps_of_the_run_or_the_tokens_that_end_it(capsys, tokens, said):
    module = Fake(pace=Fake(supervised_tokens=tokens), supervised=200)
    trainer = Fake(global_step=1, estimated_stepping_batches=8, callback_metrics={}, num_val_batches=[2])
    trainer.state = Fake(fn=TrainerFn.FITTING)
    bar = TrainingBar(quiet=False)
    bar.on_train_start(trainer, module)
    trainer.global_step, module.supervised = 3, 600
    trainer.callback_metrics = {"train/loss": 0.1234, "val/kl": 0.5, "train/tokens_per_second": 1234.4, "val/ce": 1.0}
    bar.on_train_batch_end(trainer, module, None, None, 0)
    bar.on_validation_start(trainer, module)  # the run's own: it leaves no line
    bar.on_validation_batch_end(trainer, module, None, None, 0)
    bar.on_validation_end(trainer, module)
    bar.on_train_end(trainer, module)
    assert capsys.readouterr().out.splitlines() == [f"{said}loss 0.123, KL 0.5, 1,234 tokens/s"]


def test_a_run_that_fails_leaves_no_bar_behind(capsys):
    module, trainer = Fake(pace=Fake(supervised_tokens=None)), Fake(global_step=0, estimated_stepping_batches=8)
    bar = TrainingBar(quiet=False)
    bar.on_train_start(trainer, module)
    bar.on_exception(trainer, module, ValueError())
    assert bar.whole is None and bar.reading is None
    capsys.readouterr()


def test_quiet_is_quiet(capsys):
    module, trainer = Fake(pace=Fake(supervised_tokens=None)), Fake(global_step=0, estimated_stepping_batches=8)
    bar = TrainingBar(quiet=True)
    bar.on_train_start(trainer, module)
    bar.on_train_batch_end(trainer, module, None, None, 0)
    bar.on_train_end(trainer, module)
    assert capsys.readouterr().out == ""
