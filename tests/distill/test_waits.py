"""What a training step makes the host wait for on a GPU: each by name, and how often (docs/gpu.md)."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import collector, hf
from test_data import data
from test_student import SELECTORS, student
from waits import Waits

from ekd.distill.student import Student
from ekd.selector.topk import TopK
from ekd.signal.student_entropy import StudentEntropy

STEP = {
    ("reader", "hidden_where", "_local_scalar_dense"): 1,  # transformers asks whether a row holds several texts
    ("rows", "where", "nonzero"): 2,  # the rows that predict a response token; those that are paid for
    ("rows", "matched", "_local_scalar_dense"): 1,  # is there a row without a teacher
    ("segment", "check_scores", "_local_scalar_dense"): 1,  # is a score no number
    ("head", "_check", "tolist"): 1,  # are all ids rows of the head
    ("guard", "check_step", "tolist"): 1,  # are loss and gradient numbers
    ("logits", "backward", "_local_scalar_dense"): 1,  # on a CPU alone
}
SEGMENTS = {("segments", "segments", "unique_consecutive"): 1}  # how many texts compete
MORE = {
    "vanilla": {},
    "topk": SEGMENTS,
    "bucket": {
        ("segments", "segments", "unique_consecutive"): 3
    },  # also for what is nearest, and the best of an empty one
    "student_entropy": SEGMENTS,
    "random": SEGMENTS
    | {
        ("random", "forward", "_local_scalar_dense"): 1,  # the seed of this step, kept in checkpoints
        ("segment", "check_scores", "_local_scalar_dense"): 2,  # its own scores, too
    },
    "temperature": {
        ("head", "temperatures", "_local_scalar_dense"): 1,  # is a second softmax needed
        ("tail", "floored", "index_put_"): 1,
    },
}
CHANGES = {
    "student_entropy": {"selector": TopK(k_percent=20, scope="sequence"), "signal": StudentEntropy()},
    "temperature": {"temperature": 2.0},
}


class Watch(L.Callback):
    """Looks at one batch from its arrival to the end of its step."""

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: object, index: int) -> None:
        self.waits = Waits()
        self.waits.__enter__()

    def on_train_batch_end(self, *args: object) -> None:
        self.waits.__exit__(None, None, None)


def seen_in_a_step(folder: Path, **changes: object) -> tuple[Student, dict[tuple[str, str, str], int]]:
    pupil, watch = student(**changes), Watch()
    del pupil.log
    trainer = L.Trainer(
        accelerator="cpu", max_steps=2, limit_val_batches=0, use_distributed_sampler=False, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, default_root_dir=folder,
        callbacks=[watch],
    )  # fmt: skip
    trainer.fit(pupil, data(collector=collector(teacher=hf(mode="score"))))
    return pupil, dict(watch.waits.seen)


@pytest.mark.parametrize("name", MORE)
def test_a_step_waits_for_what_is_named_and_for_nothing_else(tmp_path, name):
    changes = CHANGES.get(name) or {"selector": SELECTORS[name]()}
    pupil, seen = seen_in_a_step(tmp_path, **changes)
    # AdamW reads a step number of each parameter, which it keeps in main memory: no wait on a GPU either
    assert seen.pop(("student", "optimizer_step", "_local_scalar_dense")) == len(list(pupil.parameters()))
    assert seen == STEP | MORE[name]


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: float(x[0]),
        lambda x: bool((x > 0).any()),
        lambda x: x.tolist(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: x.masked_select(x > 0),
        lambda x: x.repeat_interleave(torch.tensor([2, 1, 1])),
        lambda x: x.__setitem__(x > 0, torch.ones(3)),
    ],
)
def test_every_kind_of_wait_is_seen(wait):
    with Waits() as waits:
        wait(torch.tensor([1.0, 2.0, 3.0]))
    assert waits.seen


def test_what_does_not_wait_is_not_counted():
    x, order = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2, 0])
    with Waits() as waits:
        torch.where(x > 1, x, 0.0).masked_scatter(x > 2, x)[order].cumsum(0).argsort()
    assert not waits.seen
