"""Sweeps through the real command line: finished cells are skipped, killed ones go on, failed ones stop nobody."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from test_train import ROOT, ekd

from ekd.distill.run_folder import Standing, hold, identity, make_room, standing
from ekd.distill.schedule import set_rate, spread
from ekd.files import write_json as write
from ekd.models.checkpoint import save
from ekd.report.outcome import outcome
from ekd.report.section import sections
from ekd.report.sweep import Lost, read_sweep
from ekd.store.store import Store

# What experiment=tiny sets, on the command line: `experiment` is the sweep's here.
TINY = [
    *("teacher.model=tiny:1", "teacher.max_new_tokens=24", "student.model=tiny", "dataset.levels=[1]"),
    *(
        "data.train_problems=48",
        "data.val_problems=8",
        "data.max_tokens=1024",
        "benchmark.problems=0",
        "save_student=false",
    ),
    *(
        "controls=false",
        "trainer.accelerator=cpu",
        "trainer.val_check_interval=4",
        "callback.checkpoint.every_n_train_steps=2",
    ),
]
STEPS = "trainer.max_steps=8"
SWEEP = ["-m", "experiment=bucket_sweep", *TINY, STEPS, "method=vanilla,random_20,bucket_70_80", "seed=0,1"]


def cells(sweep: Path) -> dict[str, dict]:
    """What every finished cell found, without what the clock says."""
    found = {}
    for file in sorted(sweep.rglob("metrics.json")):
        figures = json.loads(file.read_text())["figures"]
        figures["train"].pop("tokens_per_second")
        found[str(file.parent.relative_to(sweep))] = {k: figures[k] for k in ("before", "after", "train")}
    return found


def start(cwd: Path, *words: str) -> subprocess.Popen[str]:
    environment = (
        os.environ
        | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
        | {"EKD_HOME": str(cwd / "home")}
    )
    command = [sys.executable, "-m", "ekd.train", *words]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def whole(place) -> dict[str, dict]:
    """The sweep, not disturbed."""
    done = ekd("train", *SWEEP, f"hydra.sweep.dir={place / 'whole'}", cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"page        open {(place / 'whole' / 'report' / 'index.html').as_uri()}" in done.stdout
    assert not list((place / "whole").rglob("*.ckpt")), "a sweep's finished cells would fill a disk"
    return cells(place / "whole")


def test_the_cells_are_methods_times_seeds_and_differ(whole):
    assert sorted(whole) == sorted(
        f"steps/{method}/seed_{seed}" for method in ("vanilla", "random_20", "bucket_70_80") for seed in (0, 1)
    )
    assert len({cell["after"]["val/kl"] for cell in whole.values()}) == 6
    assert len({cell["before"]["val/kl"] for cell in whole.values()}) == 1  # the same student, paired


def test_a_second_start_does_nothing_and_a_changed_one_loses_nothing(place, whole):
    words = [
        "-m",
        "experiment=bucket_sweep",
        *TINY,
        STEPS,
        "method=vanilla",
        "seed=0,1",
        f"hydra.sweep.dir={place / 'whole'}",
    ]
    again = ekd("train", *words, cwd=place)
    assert again.returncode == 0 and again.stdout.count("finished before") == 2 and "tracing" not in again.stdout
    old = (place / "whole/steps/vanilla/seed_0/metrics.json").read_text()
    other = ekd("train", *words, "seed=0", "trainer.max_steps=4", cwd=place)
    assert other.returncode == 0, other.stderr
    run = place / "whole/steps/vanilla/seed_0"
    assert (run / "earlier-1" / "metrics.json").read_text() == old
    assert json.loads((run / "metrics.json").read_text())["config"]["trainer"]["max_steps"] == 4


def test_a_sweep_killed_twice_gives_the_same_table(place, whole):
    """SIGKILL: once in the first cell, after a checkpoint; once in a later one."""
    words = [*SWEEP, f"hydra.sweep.dir={place / 'killed'}", "+callback.slow._target_=sweep_slow.Slow"]
    for cell in ("vanilla/seed_0", "random_20/seed_1"):
        process = start(place, *words)
        checkpoints, deadline = place / "killed/steps" / cell / "checkpoints", time.monotonic() + 120
        while (
            not any(map(zipfile.is_zipfile, checkpoints.glob("*.ckpt")))
            and time.monotonic() < deadline
            and process.poll() is None
        ):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert list(checkpoints.glob("*.ckpt")), process.stdout.read()
        assert not (checkpoints.parent / "metrics.json").exists()
    last = start(place, *words)
    said = last.communicate(timeout=300)[0]
    assert last.returncode == 0, said
    assert "finished before" in said and "going on" in said and ".ckpt" in said
    assert cells(place / "killed") == whole
    curve = place / "killed/steps/random_20/seed_1"
    assert (curve / "csv.1/metrics.csv").stat().st_size and (curve / "csv/metrics.csv").stat().st_size


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_ctrl_c_ends_a_sweep_and_the_same_command_goes_on(place, whole, launcher):
    """The terminal sends it to every process of the command."""
    sweep = place / f"interrupted-{launcher}"
    words = [
        *SWEEP,
        f"hydra.sweep.dir={sweep}",
        f"hydra/launcher={launcher}",
        "+callback.slow._target_=sweep_slow.Slow",
    ]
    process, deadline = start(place, *words), time.monotonic() + 120
    while not list(sweep.rglob("*.ckpt")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 130 and "Traceback" not in said, said
    assert "the same command goes on" in said and "failed" not in said
    again = start(place, *words)
    said = again.communicate(timeout=300)[0]
    assert again.returncode == 0 and "going on" in said, said
    assert cells(sweep) == whole


def test_a_sweep_waits_for_a_cell_that_another_start_of_it_runs_and_reports_no_failure(place, whole):
    sweep = place / "twice"
    words = ["-m", "experiment=bucket_sweep", *TINY, STEPS, "method=vanilla", "seed=0,1", f"hydra.sweep.dir={sweep}"]
    with hold(sweep / "steps/vanilla/seed_0", wait=False):
        second = start(place, *words)
        assert any("waiting for it" in line for line in second.stdout)
        assert not list(sweep.rglob("run.json")), "it touches nothing of a run that goes on"
    said = second.communicate(timeout=300)[0]
    assert second.returncode == 0 and "failed" not in said, said
    assert cells(sweep) == {name: cell for name, cell in whole.items() if "vanilla" in name}


def test_a_failed_cell_is_named_and_the_others_go_on(place):
    words = ["-m", "experiment=bucket_sweep", *TINY, STEPS, "method=vanilla", "seed=0", "student.temperature=7,1"]
    subdir = "hydra.sweep.subdir=t${student.temperature}"
    done = ekd("train", *words, subdir, f"hydra.sweep.dir={place / 'failed'}", cwd=place)
    assert done.returncode == 1
    assert "1 failed" in done.stderr and "temperature 7" in (place / "failed/t7/failed.txt").read_text()
    assert "Traceback" not in done.stderr + done.stdout
    assert list(cells(place / "failed")) == ["t1"]
    view, failed = outcome(place / "failed")
    assert failed == 1 and view.row_count == 2


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_several_at_once_find_the_same_and_trace_once(place, whole, launcher):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.removesuffix('_local')}_launcher")
    sweep, home = place / launcher, place / f"home-{launcher}"
    words = [*SWEEP, f"hydra/launcher={launcher}", f"hydra.sweep.dir={sweep}"]
    if launcher == "joblib":
        words.append("hydra.launcher.n_jobs=2")
    done = ekd("train", *words, cwd=place, EKD_HOME=str(home))
    assert done.returncode == 0, done.stdout + done.stderr
    assert cells(sweep) == whole
    (store,) = (home / "traces").iterdir()
    assert len(Store(store)) == 56  # every trace of both splits, once


def test_several_at_once_divide_the_threads(place):
    """And -m is understood where the experiment is a sweep."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["experiment=bucket_sweep", *TINY, "trainer.max_steps=2"]
    words += [
        "hydra.sweeper.params.method=vanilla",
        "hydra.sweeper.params.seed='0,1'",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        f"hydra.sweep.dir={place / 'threads'}",
    ]
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    environment |= {"PYTHONPATH": str(ROOT), "EKD_HOME": str(place / "home")}
    command = [sys.executable, "-m", "ekd.train", *words]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    threads = [json.loads(file.read_text())["threads"] for file in (place / "threads").rglob("metrics.json")]
    assert threads == [max(1, os.cpu_count() // 2)] * 2


def test_a_finished_run_whose_page_failed_is_named_and_mended(place):
    words = ["-m", "experiment=bucket_sweep", *TINY, "trainer.max_steps=2", "method=vanilla", "seed=0"]
    words.append(f"hydra.sweep.dir={place / 'mended'}")
    run = place / "mended/steps/vanilla/seed_0"
    run.mkdir(parents=True)
    (run / "report").write_text("in the way of the page's folder")
    failed = ekd("train", *words, cwd=place)
    assert failed.returncode == 1 and (run / "metrics.json").exists() and (run / "failed.txt").exists()
    assert "finished, but its page or logger failed" in " ".join(failed.stdout.replace("│", " ").split())
    (run / "report").unlink()
    again = ekd("train", *words, cwd=place)
    assert again.returncode == 0 and "finished before" in again.stdout, again.stdout + again.stderr
    assert (run / "report" / "index.html").exists() and not (run / "failed.txt").exists()


def test_equal_supervised_tokens(place, whole):
    words = ["-m", "experiment=bucket_sweep", *TINY, "method=vanilla,random_20", "seed=0", "callback=best"]
    sweep = place / "tokens"
    done = ekd("train", *words, "budget=tokens", "student.supervised_tokens=400", f"hydra.sweep.dir={sweep}", cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = {}
    for method in ("vanilla", "random_20"):
        found = json.loads((sweep / "tokens" / method / "seed_0/metrics.json").read_text())
        assert found["budget"] == "tokens" and found["method"] == method
        learned = found["figures"]["train"]["supervised_tokens"]
        per_step = 400 if method == "vanilla" else 40
        assert 400 <= learned < 400 + per_step, "it ends with the step that reaches the budget"
        steps[method] = learned / per_step
        kept = [file.name for file in (sweep / "tokens" / method / "seed_0/checkpoints").iterdir()]
        assert kept and all(name.startswith("best-") for name in kept), "asked for, unlike those to go on from"
    two = ekd("train", *TINY, "method=vanilla", "student.supervised_tokens=400", cwd=place)
    assert two.returncode == 2 and "two budgets" in two.stderr and "budget=tokens" in two.stderr


def test_optuna_finds_a_band(place):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = ["-m", "experiment=bucket_search", *TINY, STEPS, "hydra.sweeper.n_trials=2"]
    done = ekd("train", *words, cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    found = cells(place / "multirun/bucket_search")
    best = min(cell["after"]["val/kl"] for cell in found.values())
    assert len(found) == 2 and f"Best value: {best}" in done.stdout + done.stderr
    for name in found:
        lower, upper = map(int, name.split("/")[0].split("_"))
        assert lower >= 0 and lower + 5 <= upper <= 100


def made(**config) -> dict:
    return {"config": {"seed": 0, "ckpt": None} | config, "code": "a"}


def test_what_a_folder_holds(tmp_path):
    assert standing(tmp_path, made()) == Standing()
    write(tmp_path / "run.json", made(place=str(tmp_path)))
    moved = made(place=str(tmp_path))
    assert standing(tmp_path, moved | {"commit": "another"}) == Standing(begun=True)
    assert standing(tmp_path, moved | {"code": "b"}).other
    assert standing(tmp_path, made(place=str(tmp_path), seed=1)).other
    assert identity(made(ckpt="x"), tmp_path) == identity(made(), tmp_path)
    write(tmp_path / "run.json", made(place="/elsewhere/run") | {"folder": "/elsewhere/run"})
    assert standing(tmp_path, moved | {"folder": str(tmp_path)}) == Standing(begun=True), "a sweep that was moved"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "torn.ckpt").write_bytes(b"PK\x03\x04 half")
    assert standing(tmp_path, moved).ckpt is None
    save({}, tmp_path / "checkpoints" / "whole.ckpt")
    assert standing(tmp_path, moved).ckpt == tmp_path / "checkpoints" / "whole.ckpt"
    (tmp_path / "metrics.json").write_text('{"half')
    torn = standing(tmp_path, moved)
    assert torn.begun and not torn.finished and "metrics.json is damaged" in torn.damage, "it is made again"
    write(tmp_path / "metrics.json", moved)
    assert standing(tmp_path, moved).finished
    with pytest.raises(ValueError, match=r"whole\.ckpt lies in .*a folder of its own"):
        make_room(tmp_path, Standing(other=True), str(tmp_path / "checkpoints" / "whole.ckpt"))
    (tmp_path / "checkpoints" / ".torn.ckpt.tmp").touch()
    make_room(tmp_path, Standing(begun=True))
    assert not (tmp_path / "checkpoints" / ".torn.ckpt.tmp").exists(), "of a killed writer"
    make_room(tmp_path, Standing(other=True))
    assert sorted(f.name for f in (tmp_path / "earlier-1").iterdir()) == ["checkpoints", "metrics.json", "run.json"]
    assert standing(tmp_path, moved) == Standing()


def test_the_rate_follows_the_tokens():
    """Over tokens as over steps: the same schedule, whatever the size of the steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    scheduler = spread("linear", optimizer, 0.1, 1000)
    for place, rate in ((0, 0.0), (50, 1.0), (100, 2.0), (550, 1.0), (1000, 0.0), (1200, 0.0)):
        set_rate(scheduler, place)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate)
    with pytest.raises(ValueError, match="reduce_lr_on_plateau"):
        spread("reduce_lr_on_plateau", optimizer, 0.0, 1000)


def test_every_method_of_a_sweep_over_any_groups_ends_beside_a_random_control(place):
    """Two signals times two losses by a preset's own selector; random tokens of their share are trained afterwards."""
    words = [word for word in TINY if not word.startswith("controls")]
    sweep = place / "signals"
    done = ekd("train", "-m", "experiment=ekd", *words, "trainer.max_steps=4", "signal=teacher_entropy,student_entropy",
               "loss=forward_kl,reverse_kl", "seed=0", f"hydra.sweep.dir={sweep}", cwd=place)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"page        open {(sweep / 'report' / 'index.html').as_uri()}" in done.stdout
    section = sections(read_sweep(sweep))[0]
    controls = {one.name: str(section.control(one)) for one in section.methods if one.selects}
    assert controls == {
        "topk_20": "random_20", "topk_20-reverse_kl": "random_20-reverse_kl",
        "topk_20-student_entropy": "random_20", "topk_20-student_entropy-reverse_kl": "random_20-reverse_kl",
    }  # fmt: skip
    tokens = {cell.figures["train"]["supervised_tokens"] for cell in section.cells}
    assert len(section.cells) == 6 and len(tokens) == 1


def test_brackets_in_a_reason_are_shown_as_they_are(tmp_path, monkeypatch, capsys):
    from rich import print as show

    lost = Lost(tmp_path / "a", "steps", "vanilla", 0, "failed", "no [/x] in [red]")
    monkeypatch.setattr("ekd.report.outcome.read_cells", lambda sweep: [lost])
    view, failed = outcome(tmp_path)
    show(view)
    assert failed == 1 and "no [/x] in [red]" in " ".join(capsys.readouterr().out.split())
