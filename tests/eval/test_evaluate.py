"""The door `python -m ekd.evaluate` through the real command line, on models so small that it takes seconds."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import hydra
import pytest
from test_train import ekd, figures, rows, train

from ekd.cli.door import CONF

ROOT = Path(__file__).parents[2]
TINY = ["experiment=tiny", "benchmark.max_new_tokens=24", "benchmark.problems=12", "benchmark.batch_size=2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def run(place) -> Path:
    """A training run that sat a benchmark at every validation and kept its best checkpoints."""
    small = [
        "callback.benchmark.benchmark.problems=3",
        "callback.benchmark.benchmark.max_new_tokens=8",
        "benchmark.problems=0",
    ]
    return train(place, "callback=benchmark_early", "callback.best.save_top_k=2", *small)


def evaluate(place: Path, *words: str) -> str:
    done = ekd("evaluate", *words, cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def told(folder: Path) -> dict:
    """The metrics without the speed, which no two runs share."""
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    return {name: value for name, value in metrics.items() if "second" not in name}


def test_an_evaluation_killed_at_random_moments_ends_in_the_same_table(place):
    words = [*TINY, "benchmark.samples=3", "benchmark.temperature=1.0"]
    evaluate(place, *words, f"out={place / 'whole'}")
    path, random = place / "killed" / "answers.jsonl", Random(0)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "EKD_HOME": str(place / "home")}
    command = [sys.executable, "-m", "ekd.evaluate", *words, f"out={place / 'killed'}"]
    for after in (1, 11):
        process = subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.DEVNULL)
        began = time.monotonic()
        while process.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < after):
            assert time.monotonic() - began < 120
            time.sleep(0.002)
        time.sleep(random.random() / 20)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with path.open("a") as file:
        file.write('{"problem_id": "arith')  # and one kill in the middle of a line
    evaluate(place, *words, f"out={place / 'killed'}")
    assert told(place / "killed") == told(place / "whole")
    assert told(place / "whole")["answers"] == 36 and "pass@3" in told(place / "whole")


def test_a_result_says_all_that_made_it(place):
    said = evaluate(place, *TINY, f"out={place / 'told'}")
    report = json.loads((place / "told" / "metrics.json").read_text())
    assert "one problem is worth" in said and (place / "told" / "table.md").read_text().startswith("| tiny on 12 test")
    benchmark = report["benchmark"]
    assert (
        benchmark["split"] == "test" and len(benchmark["problems_sha256"]) == 64 and benchmark["prompt"]["instruction"]
    )
    assert report["model"]["revision"] == "tiny" and report["ekd"] and "commit" in report and report["command"]
    assert {"samples", "temperature", "top_p", "max_new_tokens", "seed"} <= set(benchmark)


def test_a_runs_student_and_its_kept_checkpoint_are_judged_and_compared(place, run):
    assert len(rows(run, "val/accuracy")) == 2 and set(rows(run, "val/benchmark_answered")) == {1.0}
    best = sorted((run / "checkpoints").glob("best-step*.ckpt"))
    assert len(best) == 2
    for words, name in ([], "last"), ([f"ckpt={best[0]}"], "best"):
        evaluate(
            place, f"run={run}", *words, "benchmark.problems=4", "benchmark.max_new_tokens=8", f"out={place / name}"
        )
    assert json.loads((place / "last" / "metrics.json").read_text())["config"]["dataset"]["levels"] == [1], (
        "the run's own"
    )
    said = evaluate(place, "compare", str(place / "last"), str(place / "best"), "--out", str(place / "both.json"))
    assert "McNemar" in said and json.loads((place / "both.json").read_text())["problems"] == 4


def test_a_run_is_judged_again_in_the_arithmetic_of_its_training(place):
    asked = ["benchmark.problems=4", "benchmark.max_new_tokens=8", "benchmark.batch_size=4"]
    mixed = train(place, "trainer.precision=bf16-mixed", *asked)
    for words, name in ([], "again"), (["benchmark.precision=32-true"], "exact"):
        evaluate(place, f"run={mixed}", *asked, *words, f"out={place / name}")
    again, exact = (json.loads((place / name / "metrics.json").read_text()) for name in ("again", "exact"))
    assert (again["benchmark"]["precision"], exact["benchmark"]["precision"]) == ("bf16-mixed", "32-true")
    first, second, other = (
        [(one["text"], one["entropy"]) for one in map(json.loads, (place / name / "answers.jsonl").open())]
        for name in (mixed, "again", "exact")
    )
    assert first == second != other


def test_the_perplexity_reads_what_the_validation_read(place, run):
    evaluate(place, "perplexity", f"run={run}", f"out={place / 'yard'}")
    reading, after = told(place / "yard"), figures(run)["after"]
    assert reading["kl"] == pytest.approx(after["val/kl"], rel=1e-4)
    assert reading["ce"] == pytest.approx(after["val/ce"], rel=1e-4)
    assert reading["agreement"] == pytest.approx(after["val/agreement"], abs=1e-6)
    assert len(reading["bins"]) == 15 and sum(b["tokens"] for b in reading["bins"]) == reading["tokens"]
    assert (place / "yard" / "reliability.svg").read_text().startswith("<svg")


def test_wandb_gets_the_summary_and_every_answer(place):
    evaluate(place, *TINY, "logger=wandb", f"out={place / 'logged'}", "benchmark.problems=3")
    files = list((place / "outputs" / "evaluate" / "wandb").glob("offline-run-*"))
    assert list(files[0].glob("*.wandb"))
    table = next(files[0].rglob("*.table.json"))
    assert len(json.loads(table.read_text())["data"]) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run=nowhere"], "is not a training run"),
        (["benchmark.samples=4"], "set benchmark.temperature=0.6"),
        (["benchmark.sampels=4"], "did you mean benchmark.samples?"),
        (["compare", "nowhere", "elsewhere"], "holds no answers.jsonl"),
        (["perplexity"], "give one of run=RUN, store=STORE and text=FILE"),
    ],
)
def test_a_mistake_is_answered_in_a_sentence(place, words, said):
    done = ekd("evaluate", *words, cwd=place)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_help_names_what_the_door_does_and_imports_nothing_heavy(place):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ekd.evaluate", "--help"],
        cwd=place, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0 and "compare A B" in done.stdout and "generator" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "lightning", "wandb"}


def test_aime_is_solved_16_times_unless_told_otherwise():
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        aime = hydra.compose("evaluate", ["dataset=aime"]).benchmark
        assert (aime.samples, aime.temperature, aime.max_new_tokens, aime.problems) == (16, 0.6, 32768, None)
        assert hydra.compose("evaluate", ["dataset=aime", "benchmark.samples=4"]).benchmark.samples == 4
        assert hydra.compose("evaluate", ["dataset=gsm8k"]).benchmark.samples == 1


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs lm-eval: pip install 'ekd[harness]'")
def test_the_harness_states_shots_and_split(place):
    """A task made here, since the harness's own come from the hub."""
    tasks = place / "tasks"
    tasks.mkdir()
    lines = [{"q": f"{a}+1=", "choices": [str(a + 1), str(a)], "gold": 0} for a in range(4)]
    (tasks / "sums.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tasks / "sums.yaml").write_text(
        f"task: sums\ndataset_path: json\ndataset_kwargs:\n  data_files: {{test: {tasks}/sums.jsonl}}\n"
        "output_type: multiple_choice\ntest_split: test\nfewshot_split: test\ndoc_to_text: '{{q}}'\n"
        "doc_to_target: gold\ndoc_to_choice: choices\n"
        "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
    )
    out = place / "harness"
    evaluate(place, "harness", "tasks=[sums]", f"include={tasks}", "shots=2", "student.model=tiny", f"out={out}")
    report = json.loads((out / "metrics.json").read_text())
    assert (
        report["tasks"][0]["shots"] == 2 and report["tasks"][0]["split"] == "test" and "sums/acc" in report["metrics"]
    )
