"""The one place of reduction: a big batch, accumulated micro-batches and several ranks are the same step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranks_job import main
from safetensors.torch import load_file
from test_train import figures, rows, train

TESTS = Path(__file__).parents[1]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def one_rank(tmp_path: Path, accumulate: int, merge: int) -> dict[str, torch.Tensor]:
    main(1, accumulate, merge, str(tmp_path / f"{accumulate}-{merge}.pt"))
    return weights(tmp_path / f"{accumulate}-{merge}.pt")


@pytest.mark.filterwarnings("ignore")
def test_accumulated_micro_batches_equal_the_big_batch_though_one_of_them_selects_nothing(tmp_path):
    small, big = one_rank(tmp_path, 2, 1), one_rank(tmp_path, 1, 2)
    other = one_rank(tmp_path, 1, 1)  # four steps an epoch in place of two: the test can tell
    assert 0 < small["supervised"] < small["offered"]
    for name in small:
        torch.testing.assert_close(small[name], big[name], atol=1e-5, rtol=1e-5)
    assert any((small[name] - other[name]).abs().max() > 1e-4 for name in small)


@pytest.mark.filterwarnings("ignore")
def test_two_ranks_equal_one_that_accumulates_though_one_of_them_selects_nothing(tmp_path):
    alone = one_rank(tmp_path, 2, 1)
    out = tmp_path / "ranks.pt"
    places = ":".join(map(str, (TESTS.parent, TESTS, TESTS / "distill", TESTS / "data")))
    environment = os.environ | {"PYTHONPATH": places, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(TESTS / "ranks_job.py"), "2", "1", "1", str(out)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    shared = weights(out)
    for name in alone:
        torch.testing.assert_close(shared[name], alone[name], atol=1e-6, rtol=1e-6)


def test_two_ranks_through_the_command_line_say_what_one_says_and_only_once(tmp_path):
    words = ["trainer.max_steps=3", "trainer.log_every_n_steps=1", "selector=topk", "benchmark.problems=0"]
    both = train(tmp_path, *words, "trainer.devices=2", "trainer.strategy=ddp")
    alone = train(tmp_path, *words, "trainer.accumulate_grad_batches=2")
    assert rows(both, "train/loss") == pytest.approx(rows(alone, "train/loss"), rel=1e-5)
    for part in ("before", "after"):
        assert figures(both)[part] == pytest.approx(figures(alone)[part], rel=1e-4, abs=1e-4)
    assert figures(both)["train"]["supervised_tokens"] == figures(alone)["train"]["supervised_tokens"]
    a, b = (load_file(run / "student" / "model.safetensors") for run in (both, alone))
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-6, rtol=1e-5)
