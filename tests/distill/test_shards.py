"""Weights in shards (trainer.strategy=fsdp2): the same student as whole ones give, at half the numbers a rank."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from shards_job import CASES, STEPS, fit
from test_ranks import weights
from test_train import TINY, ekd, train

from ekd.models.checkpoint import load

TESTS = Path(__file__).parents[1]
RESUMED = ("topk-student_entropy", "lora")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    """What two ranks made of every case."""
    out = tmp_path_factory.mktemp("shards")
    places = ":".join(map(str, (TESTS.parent, TESTS, TESTS / "distill", TESTS / "data")))
    environment = os.environ | {"PYTHONPATH": places, "OMP_NUM_THREADS": "1", "EKD_HOME": str(out / "home")}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, str(TESTS / "shards_job.py"), str(out)],
        env=environment, cwd=out, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def said(job: Path) -> list[dict[str, float]]:
    """Of each rank."""
    return json.loads((job / "said.json").read_text())


def farthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name].float() - b[name].float()).abs().max()) for name in a)


@pytest.mark.parametrize("case", CASES)
def test_shards_on_two_ranks_are_ddp_and_one_rank_though_one_of_them_selects_nothing(job, tmp_path, case):
    shards, whole = weights(job / f"{case}-fsdp2.pt"), weights(job / f"{case}-ddp.pt")
    alone = fit(case, 1, "auto", tmp_path, merge=2).model.state_dict()
    assert farthest(shards, whole) < 1e-6 and farthest(shards, alone) < 1e-6
    untrained = fit(case, 1, "auto", tmp_path, merge=2, steps=1).model.state_dict()
    assert farthest(shards, untrained) > 1e-3  # the test can tell


@pytest.mark.parametrize("case", CASES)
def test_each_rank_holds_half_of_the_weights_and_of_the_optimizers_state(job, case):
    assert [rank[case] for rank in said(job)] == [pytest.approx(0.5, abs=0.01)] * 2


@pytest.mark.parametrize("case", RESUMED)
def test_a_resumed_run_equals_an_uninterrupted_one_and_each_strategy_may_go_on_from_the_other(job, case):
    uninterrupted = weights(job / f"{case}-fsdp2.pt")
    assert farthest(weights(job / f"{case}-fsdp2-fsdp2.pt"), uninterrupted) == 0
    for other in ("fsdp2-ddp", "ddp-fsdp2"):
        assert farthest(weights(job / f"{case}-{other}.pt"), uninterrupted) < 1e-6


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_of_shards_holds_what_ddps_does(job, case):
    shards, whole = (load(job / f"{case}-{strategy}-{STEPS}.ckpt") for strategy in ("fsdp2", "ddp"))
    assert shards.keys() == whole.keys()
    assert farthest(shards["state_dict"], whole["state_dict"]) < 1e-6
    ours, theirs = (one["optimizer_states"][0]["state"] for one in (shards, whole))
    assert ours.keys() == theirs.keys() and len(ours) > 0
    assert all(farthest(ours[place], theirs[place]) < 1e-6 for place in ours)


@pytest.mark.parametrize("case", RESUMED)
def test_the_saved_student_gives_the_logits_of_the_one_in_shards(job, case):
    assert said(job)[0][f"{case}-saved"] < 5e-5


def test_a_run_in_shards_that_was_killed_goes_on_as_if_it_had_not(tmp_path):
    words = ["trainer.devices=2", "trainer.strategy=fsdp2", "selector=topk", "signal=student_entropy"]
    words += ["callback.checkpoint.every_n_train_steps=2", "benchmark.problems=0", "callback=benchmark"]
    words += ["callback.benchmark.benchmark.problems=3", "callback.benchmark.benchmark.max_new_tokens=8"]
    uninterrupted = train(tmp_path, *words)
    run = tmp_path / "killed"
    command = [*TINY, f"hydra.run.dir={run}", *words]
    environment = os.environ | {"PYTHONPATH": str(TESTS.parent), "EKD_HOME": str(tmp_path / "home")}
    process = subprocess.Popen(
        [sys.executable, "-m", "ekd.train", *command], cwd=tmp_path, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 240
    while not (run / "checkpoints" / "step2.ckpt").exists() and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)  # both ranks
    process.wait()
    assert (run / "checkpoints" / "step2.ckpt").exists() and not (run / "metrics.json").exists()
    done = ekd("train", *command, cwd=tmp_path)
    assert done.returncode == 0 and "going on" in done.stdout, done.stdout + done.stderr
    a, b = (load_file(folder / "student" / "model.safetensors") for folder in (uninterrupted, run))
    assert farthest(a, b) == 0
    assert sorted(file.name for file in (run / "benchmark").iterdir())[-2:] == [
        "step8-rank0.jsonl",
        "step8-rank1.jsonl",
    ]
