"""Trains on four fixed batches, the second of which has no row to pay for: `python ranks_job.py RANKS ACCUMULATE OUT`.

Run by test_ranks.py; a script of its own, because Lightning starts further ranks by running the command again.
"""

from __future__ import annotations

import sys

import lightning as L
import numpy as np
import torch
from conftest import hf, traces
from test_student import student

from ekd.data.collate import Collate
from ekd.selector.topk import TopK
from ekd.types import Batch, Trace


def unmatched(trace: Trace) -> Trace:
    """As a teacher over the wire leaves it that recognised none of its own tokens."""
    n = len(trace.response_ids)
    zero, ones = np.zeros(n, np.float32), np.ones(n, np.int32)
    nothing = {"logprobs": zero, "log_tail": zero - np.inf, "entropy": zero, "valid": zero > 0}
    return trace._replace(counts=ones, ids=trace.response_ids, **nothing)


def batches(rank: int, ranks: int, merge: int) -> list[Batch]:
    """This rank's; `merge` neighbours make one big batch."""
    made = traces(12, teacher=hf(mode="score"))
    parts = [made[:3], [unmatched(t) for t in made[3:6]], made[6:9], made[9:]]
    groups = [parts[i : i + merge] for i in range(rank * merge, 4, ranks * merge)]
    return [Collate(272)([trace for part in group for trace in part]) for group in groups]


def main(ranks: int, accumulate: int, merge: int, out: str) -> None:
    module = student(unmatched="none", selector=TopK(k_percent=40, scope="sequence"))
    del module.log
    trainer = L.Trainer(
        accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto", accumulate_grad_batches=accumulate,
        max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, gradient_clip_val=1.0,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(batches(trainer.global_rank, ranks, merge), batch_size=None))
    if trainer.is_global_zero:
        counts = {
            "supervised": module.supervised,
            "offered": module.offered,
            "loss": trainer.logged_metrics["train/loss"],
        }
        torch.save({**counts, **module.model.state_dict()}, out)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), sys.argv[4])
