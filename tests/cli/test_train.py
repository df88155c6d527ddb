"""The main job through the real command line, on models so small that it takes seconds."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ekd.models.load import load_model, load_tokenizer

ROOT = Path(__file__).parents[2]
TINY = ["experiment=tiny"]


def ekd(door: str, *words: str, cwd: Path, clear: str = "-", **changes: str) -> subprocess.CompletedProcess[str]:
    """Runs a door; the environment without variables that begin with `clear`, with `changes`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(clear)}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "EKD_HOME": str(cwd / "home")} | changes
    command = [sys.executable, "-m", f"ekd.{door}", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def train(cwd: Path, *words: str) -> Path:
    """Runs, asserts that it went well, and returns the run's folder."""
    run = cwd / f"run{len(list(cwd.glob('run*')))}"
    done = ekd("train", *TINY, f"hydra.run.dir={run}", *words, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return run


def figures(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())["figures"]


def rows(run: Path, column: str) -> list[float]:
    with (run / "csv" / "metrics.csv").open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row.get(column)]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """One folder for the module, so that its runs share one store."""
    return tmp_path_factory.mktemp("train")


def test_a_run_learns_says_what_came_out_and_another_selector_does_not_trace_again(place):
    run = place / "first"
    done = ekd("train", *TINY, "trainer.max_steps=110", f"hydra.run.dir={run}", cwd=place)  # TRAPS: a crash at step 99
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tracing train: 48/48, " in done.stdout and "training: 110/110 steps, " in done.stdout
    pages = [(run / "report" / name).as_uri() for name in ("index.html", "traces.html")]
    assert done.stdout.endswith(f"page        open {pages[0]}\nviewer      open {pages[1]}\n")
    assert (run / "report" / "traces.html").read_text().count('id="trace') == 8, "its held-out problems"
    assert (
        "\r" not in done.stdout + done.stderr and len((done.stdout + done.stderr).splitlines()) < 60
    )  # a readable log
    for path in ("student", "metrics.json", "checkpoints"):
        assert str(run / path) in done.stdout.replace("\n", "")
    result = figures(run)
    assert result["after"]["val/kl"] < 0.9 * result["before"]["val/kl"]
    assert result["train"]["selected"] == 1.0
    assert set(result["benchmark"]) == {"teacher", "student before", "student after"}
    assert len((run / "answers.jsonl").read_text().splitlines()) == 4

    made = json.loads((run / "run.json").read_text())
    assert made["config"]["student"]["optimizer"]["lr"] == 1e-3 and made["command"]

    second = ekd("train", *TINY, "selector=bucket", "selector.lower=70", cwd=place)
    assert second.returncode == 0 and "tracing" not in second.stdout, second.stdout + second.stderr


def test_the_saved_student_is_the_trained_one_and_plain_transformers_loads_it(place):
    run = train(place)
    saved = load_model(str(run / "student"))
    checkpoint = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) if (run / "checkpoints").exists() else None
    )
    fresh = load_model("tiny")
    assert any(not torch.equal(a, b) for a, b in zip(saved.parameters(), fresh.parameters(), strict=True))
    assert load_tokenizer(str(run / "student")).encode("ab") == load_tokenizer("tiny").encode("ab")
    if checkpoint is not None:
        weights = load_file(run / "student" / "model.safetensors")
        assert torch.equal(weights["model.norm.weight"], checkpoint["state_dict"]["model.model.norm.weight"])


def test_equal_seeds_give_equal_runs_and_other_seeds_do_not(place):
    first, again, other = (rows(train(place, f"seed={s}"), "train/loss") for s in (3, 3, 4))
    assert first == again and first != other


@pytest.mark.parametrize(
    "extra",
    [
        ["selector=random"],
        ["selector=random", "trainer.accumulate_grad_batches=2"],
        ["signal=bandit", "selector=topk", "trainer.accumulate_grad_batches=2"],
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(place, extra):
    words = ["benchmark.problems=0", "callback.checkpoint.every_n_train_steps=7", "trainer.log_every_n_steps=1", *extra]
    whole = train(place, *words, "trainer.max_steps=14", "callback.checkpoint.save_top_k=-1")
    resumed = train(place, *words, "trainer.max_steps=14", f"ckpt={whole}/checkpoints/step7.ckpt")
    assert rows(resumed, "train/loss") == rows(whole, "train/loss")[-len(rows(resumed, "train/loss")) :]
    a, b = (load_file(run / "student" / "model.safetensors") for run in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_ctrl_c_leaves_a_resumable_state_and_no_traceback(place):
    run = place / "stopped"
    words = [*TINY, f"hydra.run.dir={run}", "trainer.max_steps=100000", "benchmark.problems=0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "EKD_HOME": str(place / "home")}
    process = subprocess.Popen(
        [sys.executable, "-m", "ekd.train", *words], cwd=place, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    waited = time.monotonic()
    while not (run / "csv" / "metrics.csv").exists() or not rows(run, "train/loss"):
        assert time.monotonic() - waited < 120 and process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in output, output
    checkpoint = run / "checkpoints" / "interrupted.ckpt"
    assert f"ckpt={checkpoint}" in output.replace("\n", "")
    step = torch.load(checkpoint, weights_only=True)["global_step"]
    done = ekd("train", *TINY, f"ckpt={checkpoint}", f"trainer.max_steps={step + 2}", "benchmark.problems=0", cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr


def test_another_runs_checkpoint_is_refused_and_its_weights_alone_are_a_start_that_is_said(place):
    words = ["benchmark.problems=0", "trainer.max_steps=4", "callback.checkpoint.every_n_train_steps=4"]
    first = train(place, *words)
    checkpoint = (first / "checkpoints" / "last.ckpt").resolve()
    refused = ekd("train", *TINY, *words, "student.optimizer.lr=5e-4", f"ckpt={checkpoint}", cwd=place)
    assert refused.returncode == 2 and "student.optimizer.lr is 0.001 there, 0.0005 here" in refused.stderr
    second = train(place, *words, "student.optimizer.lr=5e-4", f"ckpt_from={checkpoint}")
    assert figures(second)["before"]["val/kl"] == pytest.approx(figures(first)["after"]["val/kl"], rel=1e-6)
    for name in ("run.json", "metrics.json"):
        assert json.loads((second / name).read_text())["start"]["file"] == str(checkpoint)
    assert str(checkpoint) in (second / "report" / "index.html").read_text()
    third = train(place, *words, "student.optimizer.lr=5e-4", f"ckpt={second}/checkpoints/last.ckpt")
    assert json.loads((third / "metrics.json").read_text())["start"]["file"] == str(checkpoint)


@pytest.mark.parametrize("every", [100, 4])  # never at the last step, and at it
def test_what_fails_after_training_costs_no_training(place, every):
    run = place / f"late-{every}"
    run.mkdir()
    (run / "student").write_text("in the way of the student's folder")
    words = [*TINY, "benchmark.problems=0", "trainer.max_steps=4", f"callback.checkpoint.every_n_train_steps={every}"]
    failed = ekd("train", *words, f"hydra.run.dir={run}", cwd=place)
    assert failed.returncode != 0 and "the training is kept" in failed.stdout
    checkpoint = re.search(r"with ckpt=(.*\.ckpt)", failed.stdout)[1]
    (run / "student").unlink()
    done = ekd("train", *words, f"ckpt={checkpoint}", "keep_checkpoints=false", f"hydra.run.dir={run}", cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    whole = train(place, *words[1:])
    a, b = (load_file(folder / "student" / "model.safetensors") for folder in (run, whole))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not (run / "checkpoints").exists() and not (whole / "checkpoints" / "trained.ckpt").exists()


def test_a_rate_beyond_all_numbers_stops_in_a_sentence(place):
    done = ekd("train", *TINY, "student.optimizer.lr=1e38", f"hydra.run.dir={place / 'beyond'}", cwd=place)
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*smaller student\.optimizer\.lr", done.stderr.strip()), done.stderr
    assert not (place / "beyond" / "student").exists() and not (place / "beyond" / "metrics.json").exists()


def test_trace_collects_without_training(place):
    done = ekd("trace", *TINY, "data.collector.seed=5", cwd=place)
    assert done.returncode == 0 and "56 traces made" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["selector=buket"], "bucket"),
        (["selector=bucket", "selector.lowr=1"], "did you mean selector.lower?"),
        (["data.trainx=1", "data.valx=2"], "data has no 'trainx'"),
        (["selector=bucket", "selector.lower=90"], "lower < upper"),
        (["student.temperature=2"], "teacher.temperatures=[2"),
        (["student.layers=[9]"], "0 to 1"),
        (["teacher.model=/nowhere"], "cannot load the model"),
        (["trainer.max_step=3"], "did you mean trainer.max_steps?"),
        (["-m", "method=vanilla,bucket_70_90"], "there is no method=bucket_70_90"),
        (["method=bucket_70_80", "selector=topk"], "TopK takes no 'lower'"),
        (["budget=tokens", "trainer.max_steps=9"], "two budgets"),
        (["plan=maybe"], "measure"),
    ],
)
def test_a_mistake_is_answered_in_a_sentence_before_any_work(place, words, said):
    done = ekd("train", *TINY, *words, cwd=place, EKD_HOME=str(place / "untouched"))
    assert done.returncode != 0 and said in done.stderr + done.stdout, done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("error: ") == 1
    assert not (place / "untouched" / "traces").exists()


def test_help_is_quick_and_needs_no_heavy_import(place):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ekd.train", "--help"], cwd=place, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0 and "selector" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "lightning", "wandb"}


def test_wandb_works_offline_without_an_account_and_gives_each_job_of_a_sweep_its_own_run(place):
    sweep = place / "sweep"
    words = [
        "-m",
        *TINY,
        "selector=bucket",
        "selector.lower=0,40",
        "logger=wandb",
        "benchmark.problems=0",
        "controls=false",
    ]
    done = ekd("train", *words, f"hydra.sweep.dir={sweep}", cwd=place, clear="WANDB", HOME=str(place))
    assert done.returncode == 0, done.stdout + done.stderr
    for job in "01":
        assert len(list((sweep / job / "wandb").glob("offline-run-*/*.wandb"))) == 1
        assert (sweep / job / "csv" / "metrics.csv").exists()
