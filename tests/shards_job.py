"""Trains each of CASES under ddp and under fsdp2, on the ranks that torchrun starts: `torchrun ... shards_job.py OUT`.

Run by test_shards.py, once for all cases, because a start of ranks takes longer than the training. Each case leaves
OUT/CASE-STRATEGY.pt, the weights afterwards; OUT/said.json is what else there is to say.
"""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from conftest import hf, traces
from ranks_job import unmatched
from test_student import student
from torch import distributed
from torch.distributed.tensor import DTensor

from ekd.data.collate import Collate
from ekd.distill.strategy import FSDP2  # noqa: F401 # Lightning knows it by name now
from ekd.distill.student import Student
from ekd.models.checkpoint import Checkpoints
from ekd.models.generation import generate
from ekd.models.load import load_model
from ekd.models.lora import Lora
from ekd.models.shards import whole
from ekd.selector.global_threshold import GlobalThreshold
from ekd.selector.topk import TopK
from ekd.selector.vanilla import Vanilla
from ekd.signal.student_entropy import StudentEntropy
from ekd.types import Batch

STEPS = 20
TOP = {"selector": TopK(k_percent=40, scope="sequence"), "signal": StudentEntropy()}
# What the student is, and how it trains.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vanilla": ({"selector": Vanilla()}, {}),
    "topk-student_entropy": (TOP, {}),
    "global_threshold": ({"selector": GlobalThreshold(k_percent=30, size=200, warm_up=20)}, {}),
    "lora": ({**TOP, "lora": Lora(r=4, alpha=8, dropout=0.0, targets=["q_proj", "v_proj", "lm_head"])}, {}),
    "accumulation": (TOP, {"accumulate_grad_batches": 2}),
    "packing": ({**TOP, "gradient_checkpointing": True}, {"packing": True}),
}


def batches(rank: int, ranks: int, merge: int, packing: bool) -> list[Batch]:
    """This rank's of four. `merge` neighbours make one big batch. The second has no row to pay for."""
    made = traces(12, teacher=hf(mode="score"))
    parts = [made[:3], [unmatched(t) for t in made[3:6]], made[6:9], made[9:]]
    groups = [parts[i : i + merge] for i in range(rank * merge, 4, ranks * merge)]
    return [Collate(272, packing=packing)([trace for part in group for trace in part]) for group in groups]


def made(case: str) -> Student:
    """Not configured: that is Lightning's, once there are ranks."""
    words = deepcopy(CASES[case][0])  # a ring remembers
    module = student(unmatched="none", optimizer=partial(torch.optim.AdamW, lr=1e-3), **words)
    del module.log
    module.model = None
    return module


def fit(
    case: str, ranks: int, strategy: str, out: Path, *, merge: int = 1, steps: int = STEPS, ckpt: Path | None = None
) -> Student:
    """Leaves a checkpoint of the last step beside the weights."""
    module, how = made(case), dict(CASES[case][1])
    packing = how.pop("packing", False)
    trainer = L.Trainer(
        accelerator="cpu", devices=ranks, strategy=strategy, max_steps=steps, gradient_clip_val=1.0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        use_distributed_sampler=False, val_check_interval=10, check_val_every_n_epoch=None, inference_mode=False, **how,
    )  # fmt: skip
    trainer.strategy.checkpoint_io = Checkpoints({"case": case}, steps)
    mine, one = batches(trainer.global_rank, ranks, merge, packing), batches(0, 1, 1, packing)[:1]  # on every rank
    feed, held = (torch.utils.data.DataLoader(some, batch_size=None) for some in (mine, one))
    L.seed_everything(0, verbose=False)  # of adapters: ranks begin so, whatever was drawn before
    trainer.fit(module, feed, held, ckpt_path=ckpt, weights_only=True)
    trainer.save_checkpoint(out / f"{case}-{strategy}-{steps}.ckpt")
    return module


def write(module: Student, tokens: int) -> list[int]:
    assert module.model is not None
    return generate(module.model, [[7, 8, 9], [10]], end={271}, max_new_tokens=tokens)[1].ids


def share(module: Student) -> float:
    """Of the numbers of the weights and of the optimizer's state, the part that this rank holds."""
    tensors = [*module.model.parameters()]
    for state in module.trainer.optimizers[0].state.values():
        tensors += [value for value in state.values() if value.dim()]
    held = sum((t.to_local() if isinstance(t, DTensor) else t).numel() for t in tensors)
    return held / sum(t.numel() for t in tensors)


def keep(module: Student, out: Path) -> None:
    """The whole student, as it is saved after a run."""
    if module.gather():
        assert module.model is not None
        torch.save({name: p.detach().clone() for name, p in module.model.state_dict().items()}, out)


@torch.no_grad()
def save_and_ask(module: Student, out: Path) -> float:
    """How far the logits of the saved student, as transformers loads it, are from those in shards."""
    from transformers import AutoModelForCausalLM

    assert module.model is not None
    ids = torch.arange(20).view(2, 10)
    there = module.model(input_ids=ids).logits
    with whole(module.model):  # ranks that write texts of different length wait for nobody
        text = write(module, 5 + 4 * distributed.get_rank())
    assert share(module) < 0.51  # and it is in shards again
    if not module.gather():
        return 0.0
    assert text == write(module, 5)
    module.save(out)
    loaded = AutoModelForCausalLM.from_pretrained(out)
    untrained = load_model("tiny")(input_ids=ids).logits
    assert (there - untrained).abs().max() > 1e-3  # else the same logits would say nothing
    return float((loaded(input_ids=ids).logits - there).abs().max())


def main(out: Path) -> None:
    ranks, said = 2, {}
    for case in CASES:
        for strategy in ("ddp", "fsdp2"):
            module = fit(case, ranks, strategy, out)
            if strategy == "fsdp2":
                said[case] = share(module)
            keep(module, out / f"{case}-{strategy}.pt")
    for case in ("topk-student_entropy", "lora"):
        for begun, continued in (("fsdp2", "ddp"), ("ddp", "fsdp2"), ("fsdp2", "fsdp2")):
            half = out / f"{case}-{begun}-{STEPS // 2}.ckpt"
            if not half.exists():
                fit(case, ranks, begun, out, steps=STEPS // 2)
            module = fit(case, ranks, continued, out, ckpt=half)
            if begun == continued:
                said[f"{case}-saved"] = save_and_ask(module, out / f"{case}-saved")
            keep(module, out / f"{case}-{begun}-{continued}.pt")
    everyone: list[Any] = [None] * ranks
    distributed.all_gather_object(everyone, said)
    if distributed.get_rank() == 0:
        (out / "said.json").write_text(json.dumps(everyone))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
