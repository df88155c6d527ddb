"""A checkpoint says whose it is, and any damage to it is named."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from datetime import datetime

import pytest
import torch
import yaml
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from test_student import student

from ekd.cli.door import CONF
from ekd.distill.memory_plan import check_plan
from ekd.distill.run_folder import hold
from ekd.distill.strategy import FSDP2, check_strategy
from ekd.models.checkpoint import Checkpoints, check_checkpoint, deciding, load

CONFIG = {
    "selector": {"lower": 70},
    "student": {"optimizer": {"lr": 1e-3}},
    "trainer": {"max_steps": 8, "precision": "32-true"},
    "seed": 0,
}


def kept(path, step=4, **changes):
    Checkpoints(deciding(CONFIG | changes), 8).save_checkpoint({"global_step": step, "w": torch.arange(999)}, path)
    return path


def test_another_runs_checkpoint_is_refused_with_both_sides_and_a_longer_run_is_not(tmp_path):
    file = kept(tmp_path / "a.ckpt")
    longer = CONFIG | {"trainer": {"max_steps": 80, "precision": "32-true", "devices": 1}, "ckpt": str(file)}
    assert torch.equal(Checkpoints(deciding(longer), 80).load_checkpoint(file)["w"], torch.arange(999))
    with pytest.raises(ValueError, match=r"selector\.lower is 70 there, 20 here.*ckpt_from="):
        Checkpoints(deciding(CONFIG | {"selector": {"lower": 20}}), 8).load_checkpoint(file)
    with pytest.raises(ValueError, match=r"student\.optimizer\.lr is 0\.001 there, 0\.0005 here"):
        Checkpoints(deciding(CONFIG | {"student": {"optimizer": {"lr": 5e-4}}}), 8).load_checkpoint(file)
    with pytest.raises(ValueError, match=r"of step 4, beyond trainer\.max_steps=3"):
        Checkpoints(deciding(CONFIG), 3).load_checkpoint(file)


def test_any_bit_flip_or_cut_is_named(tmp_path):
    file, lot = kept(tmp_path / "a.ckpt"), random.Random(0)
    whole = file.read_bytes()
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[lot.randrange(len(whole))] ^= 1 << lot.randrange(8)
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.ckpt is damaged"):
            check_checkpoint(file)
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"a\.ckpt is damaged"):
            load(file)
    with pytest.raises(ValueError, match="there is no checkpoint"):
        load(tmp_path / "gone.ckpt")


def test_a_strategy_that_neither_syncs_nor_shards_is_refused():
    made = student()
    for known in (SingleDeviceStrategy(), DDPStrategy(), FSDP2()):
        check_strategy(known, made)
    for other in (FSDPStrategy(), ModelParallelStrategy(tensor_parallel_size=1)):
        with pytest.raises(ValueError, match=rf"{type(other).__name__}.*ddp or fsdp2"):
            check_strategy(other, made)


def test_tensor_parallelism_and_what_was_not_seen_to_work_in_shards_are_refused():
    for size in ("auto", 2):  # Lightning's auto is every device of a machine
        with pytest.raises(ValueError, match=r"tensor parallelism, which ekd does not do.*strategy=fsdp2"):
            check_strategy(ModelParallelStrategy(tensor_parallel_size=size), student())
    shards, made = FSDP2(), student()
    made.build = replace(made.build, compile=True)
    check_strategy(DDPStrategy(), made)
    with pytest.raises(ValueError, match=r"student\.compile=true with .*fsdp2.*student\.compile=false"):
        check_strategy(shards, made)
    shards.precision_plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    with pytest.raises(ValueError, match=r"16-mixed with .*fsdp2.*bf16-mixed"):
        check_strategy(shards, student())
    for plan in (True, "measure"):
        with pytest.raises(ValueError, match=r"plan=(true|measure) plans a student that is whole.*plan=false"):
            check_plan(plan, "fsdp2")


@pytest.mark.parametrize("door", ["train", "trace"])
def test_two_starts_in_one_second_have_two_folders(door):
    for at in ("run", "sweep"):
        where = yaml.safe_load((CONF / f"{door}.yaml").read_text())["hydra"][at]["dir"]
        patterns = re.findall(r"\$\{now:([^}]*)\}", where)
        first, second = (datetime(2026, 1, 1, microsecond=part) for part in (1, 2))
        assert [first.strftime(p) for p in patterns] != [second.strftime(p) for p in patterns]


def test_a_folder_is_one_runs_at_a_time(tmp_path):
    with hold(tmp_path, wait=False), pytest.raises(ValueError, match=r"another process runs in .*hydra\.run\.dir"):
        hold(tmp_path, wait=False)
    hold(tmp_path, wait=False).release()
