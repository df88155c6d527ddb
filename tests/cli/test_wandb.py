"""What a run leaves with its loggers, read back from its files: W&B offline, TensorBoard, CSV; the dashboard's view."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import hydra
import pytest
import yaml
from test_train import ekd
from wandb_file import read

from ekd.cli import door
from ekd.cli.label import run_name, sweep_name, tags
from ekd.cli.run_log import COLUMNS, bins, headline, keep_id, log_outcome
from ekd.dashboard.__main__ import READS
from ekd.method import CONF

ROOT = Path(__file__).parents[2]
SECRETS = {"WANDB_API_KEY": "5ec2e7" * 8, "OPENAI_API_KEY": "sk-5ec2e7-openai", "HF_TOKEN": "hf_5ec2e7hub"}
TENSORBOARD = find_spec("tensorboard") is not None


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("wandb")


@pytest.fixture(scope="module")
def single(place):
    """A plain run without an account; with TensorBoard beside W&B where it is installed."""
    loggers = "logger=[wandb,tensorboard]" if TENSORBOARD else "logger=wandb"
    words = ["experiment=tiny", loggers, f"hydra.run.dir={place / 'single'}"]
    done = ekd("train", *words, cwd=place, clear="WANDB", HOME=str(place))
    assert done.returncode == 0, done.stdout + done.stderr
    return SimpleNamespace(folder=place / "single", said=done.stdout + done.stderr, **found(place / "single"))


@pytest.fixture(scope="module")
def pair(place):
    """Two jobs of a sweep, in an environment full of keys."""
    sweep = place / "multirun" / "pair"
    words = [
        "-m",
        "experiment=tiny",
        "method=bucket_70_80",
        "seed=0,1",
        "controls=false",
        "logger=wandb",
        f"hydra.sweep.dir={sweep}",
    ]
    done = ekd("train", *words, cwd=place, clear="WANDB", HOME=str(place), WANDB_MODE="offline", **SECRETS)
    assert done.returncode == 0, done.stdout + done.stderr
    return [SimpleNamespace(folder=sweep / job, **found(sweep / job)) for job in "01"]


def found(run: Path, *, made: bool = True) -> dict:
    (folder,) = (run / "wandb").glob("offline-run-*")
    return {"log": read(folder)} | ({"made": json.loads((run / "metrics.json").read_text())} if made else {})


def found_at(config: dict, key: str) -> object:
    for part in key.split("."):
        config = config[part]
    return config


def table(run, name: str) -> dict:
    """As it would be uploaded."""
    return json.loads((run.log.folder / "files" / run.log.summary[f"{name}/path"]).read_text())


def test_each_key_that_the_dashboard_reads_is_in_every_offline_run(single, pair):
    for run in (single, *pair):
        for key in READS.figures:
            values = [row[key] for row in run.log.history if key in row]
            assert values and all(math.isfinite(value) for value in values), key
            assert run.log.summary[key] == values[-1], key
        for key in READS.config:
            assert found_at(run.log.config, key) == found_at(run.made, key)
        for name, columns in READS.tables.items():
            shown = table(run, name)
            assert shown["data"] and set(columns) <= set(shown["columns"]), name
    for run in pair:
        assert [run.log.summary[key] for key in READS.bucket] == [75, 10]
    assert not set(READS.bucket) & set(single.log.summary), "all tokens are no bucket"


def test_what_is_logged_is_what_the_run_found(single, pair):
    for run in (single, *pair):
        figures, last = run.made["figures"], run.log.summary
        curve = [row["val/kl"] for row in run.log.history if "val/kl" in row]
        assert curve[0] == last["run/kl_before"] == figures["before"]["val/kl"]
        assert curve[-1] == last["run/kl_after"] == figures["after"]["val/kl"] != curve[0]
        assert last["run/accuracy"] == figures["benchmark"]["student after"]["accuracy"]
        assert last["run/supervised_tokens"] == figures["train"]["supervised_tokens"]
        assert last["eval/arithmetic/teacher/accuracy"] == figures["benchmark"]["teacher"]["accuracy"]
        assert run.log.config["config"] == run.made["config"], "the resolved config"
        assert run.log.exit is not None and run.log.exit.exit_code == 0


def test_the_tables_hold_the_answers_and_the_entropy_of_the_traces(pair):
    for run in pair:
        shown, lines = table(run, "answers"), (run.folder / "answers.jsonl").read_text().splitlines()
        assert shown["columns"] == COLUMNS
        for row, answer in zip(shown["data"], map(json.loads, lines), strict=True):
            seen = dict(zip(COLUMNS, row, strict=True))
            assert seen["question"] in answer["prompt"] and seen["response"] == answer["text"]
            assert seen["correct"] is (answer["status"] == "correct") and seen["answer"] == answer["reference"]
        counted = run.made["figures"]["trace_entropy"]
        assert table(run, "trace_entropy")["data"] == bins(**counted) and sum(counted["counts"]) > 0


def test_jobs_of_a_sweep_are_one_group_with_names_of_their_own_and_a_single_run_is_none(single, pair):
    assert {run.log.run.run_group for run in pair} == {"pair"} and single.log.run.run_group == ""
    assert [run.log.run.display_name for run in pair] == ["bucket_70_80 seed 0", "bucket_70_80 seed 1"]
    assert single.log.run.display_name == "experiment=tiny"
    assert len({run.log.run.run_id for run in (single, *pair)}) == 3
    for run in (single, *pair):
        assert run.log.run.project == "ekd" and run.log.run.job_type == "train"
        chosen = "selector=bucket" if run in pair else "selector=vanilla"
        assert set(run.log.run.tags) == {chosen, "signal=teacher_entropy", "dataset=arithmetic_small", "teacher=hf"}


def test_one_table_has_the_answers_before_after_and_the_teachers(pair):
    for run in pair:
        shown = [dict(zip(COLUMNS, row, strict=True)) for row in table(run, "answers")["data"]]
        for who in ("before", "teacher"):
            lines = (run.folder / f"answers_{who}.jsonl").read_text().splitlines()
            others = {answer["problem_id"]: answer for answer in map(json.loads, lines)}
            for seen in shown:
                answer = others[seen["problem"]]
                assert seen[who] == answer["text"] and seen[f"{who}_correct"] is (answer["status"] == "correct")


def test_traces_go_into_a_run_and_its_student_comes_out(single, pair):
    for run in (single, *pair):
        traces, student = (one for one in run.log.artifacts if one.type != "run_table")
        assert (traces.type, traces.use_after_commit) == ("traces", True) and student.use_after_commit is False
        assert (student.type, student.name) == ("model", f"student-{run.log.run.run_id}")
        assert json.loads(student.metadata)["traces"] == run.made["traces"]
        files = {entry.path: entry.ref for entry in student.manifest.contents}
        assert set(files) == {file.name for file in (run.folder / "student").iterdir()}
        assert all(ref == f"file://{run.folder / 'student' / name}" for name, ref in files.items()), "nothing is copied"
        (origin,) = traces.manifest.contents
        told = json.loads(Path(origin.local_path).read_text())
        assert told["path"] == run.made["traces"] and told["traces"] == json.loads(traces.metadata)["traces"] > 0
        assert told["origin"]["tokenizer"]["sha256"]
    versions = {one.digest for run in pair for one in run.log.artifacts if one.type == "traces"}
    assert len(versions) == 1, "one for all runs on these traces"


def test_with_a_server_traces_are_used_and_the_students_own_files_go_along_when_asked_for(single):
    from ekd.cli.lineage import log_lineage

    used, made = [], []
    run = SimpleNamespace(disabled=False, offline=False, id="x", use_artifact=used.append, log_artifact=made.append)
    log_lineage(SimpleNamespace(experiment=run, _log_model=True), single.made, single.folder)  # type: ignore[arg-type]
    assert [one.type for one in used] == ["traces"]
    (student,) = made
    sent = {name: entry.local_path for name, entry in student.manifest.entries.items()}
    assert set(sent) == {file.name for file in (single.folder / "student").iterdir()} and all(sent.values())


def test_a_run_whose_numbers_are_none_any_more_says_so_there(place):
    words = ["experiment=tiny", "logger=wandb", "benchmark.problems=0", f"hydra.run.dir={place / 'lost'}"]
    done = ekd("train", *words, "student.optimizer.lr=1e30", cwd=place, clear="WANDB", HOME=str(place))
    assert done.returncode == 2 and "student would learn nothing more" in done.stderr, done.stderr
    log = found(place / "lost", made=False)["log"]
    (alert,) = log.alerts
    assert (alert.title, alert.level) == ("the numbers are none any more", "ERROR")
    assert alert.text in done.stderr and log.exit.exit_code == 1


def test_a_cell_that_failed_says_so_there_and_one_that_did_not_says_nothing(place, pair):
    sweep = place / "multirun" / "failing"
    words = ["-m", "experiment=tiny", "seed=0", "logger=wandb", "controls=false", f"hydra.sweep.dir={sweep}"]
    broken = ["benchmark._target_=broken.Benchmark"]
    (place / "broken.py").write_text(
        "from ekd.eval.benchmark import Benchmark as Real\n\n\n"
        "class Benchmark(Real):\n    def run(self, *words, **more):\n        raise ValueError('no exam today')\n"
    )
    done = ekd("train", *words, *broken, cwd=place, clear="WANDB", HOME=str(place), PYTHONPATH=f"{place}:{ROOT}")
    assert done.returncode == 1, done.stdout + done.stderr
    (alert,) = found(sweep / "0", made=False)["log"].alerts
    assert (alert.title, alert.text) == ("a run failed", "no exam today")
    assert not [alert for run in pair for alert in run.log.alerts]


def test_the_machine_is_measured(single):
    measured = set().union(*single.log.stats)
    assert {"memory_percent", "proc.memory.rssMB"} <= measured and any("cpu" in name for name in measured)


def test_no_key_of_the_environment_is_in_any_file(pair):
    for run in pair:
        files = [file for file in run.folder.rglob("*") if file.is_file()]
        assert any(file.suffix == ".wandb" for file in files)
        for file in files:
            assert b"5ec2e7" not in file.read_bytes(), file


def test_without_an_account_a_run_says_one_line_how_to_upload_it_and_wandb_says_nothing(single):
    (line,) = [line for line in single.said.splitlines() if line.startswith(("W&B", "wandb"))]
    label, command, subcommand, folder = line.split()
    assert (label, command, subcommand) == ("W&B", "wandb", "sync") and Path(folder) == single.log.folder


def test_a_misspelt_mode_is_answered_in_a_sentence(place):
    words = ["experiment=tiny", "logger=wandb", f"hydra.run.dir={place / 'misspelt'}"]
    done = ekd("train", *words, cwd=place, clear="WANDB", WANDB_MODE="ofline")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "'ofline'" in done.stderr and "WANDB_MODE=offline" in done.stderr


def test_csv_and_tensorboard_have_the_same_figures(single):
    kl = single.made["figures"]["after"]["val/kl"]
    with (single.folder / "csv" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float([row["val/kl"] for row in rows if row["val/kl"]][-1]) == kl
    assert [float(row["run/kl_after"]) for row in rows if row["run/kl_after"]] == [kl]
    if not TENSORBOARD:
        pytest.skip("TensorBoard is not installed (pip install 'ekd[tensorboard]'); the CSV was checked")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(single.folder / "tensorboard")).Reload()
    assert {"val/kl", "train/loss", "run/accuracy"} <= set(events.Tags()["scalars"])
    assert events.Scalars("val/kl")[-1].value == pytest.approx(kl)


def test_a_disabled_run_logs_nothing_and_is_no_trouble(tmp_path, single):
    from lightning.pytorch.loggers import WandbLogger

    logger = WandbLogger(save_dir=tmp_path, mode="disabled")
    assert log_outcome([logger], single.made, {}, [], tmp_path / "none", 1) == []
    assert not list(tmp_path.rglob("*.wandb"))


def test_a_run_without_benchmark_and_one_that_was_resumed_leave_out_what_they_do_not_know(single):
    figures = single.made["figures"] | {"benchmark": {}, "before": {}}
    names = set(headline(single.made | {"figures": figures}))
    assert "run/kl_after" in names and not names & {"run/accuracy", "run/kl_before", "bucket/lower"}


def test_a_run_that_goes_on_is_one_run_there(place, single):
    words = ["experiment=tiny", "logger=wandb", "benchmark.problems=0", f"hydra.run.dir={place / 'on'}"]
    last = single.folder / "checkpoints" / "last.ckpt"
    done = ekd("train", *words, f"ckpt={last}", "trainer.max_steps=10", cwd=place, clear="WANDB", HOME=str(place))
    assert done.returncode == 0, done.stdout + done.stderr
    on = found(place / "on")["log"]
    assert on.run.run_id == single.log.run.run_id == (place / "on" / "wandb_id").read_text().strip()
    assert "resume" not in done.stderr, "offline, W&B would say that it ignores the word"


def test_a_file_that_is_no_id_is_refused_and_an_id_of_the_users_stays(tmp_path, monkeypatch):
    from lightning.pytorch.loggers import WandbLogger

    own = WandbLogger(save_dir=tmp_path, offline=True, id="mine")
    keep_id(own, tmp_path, None)
    assert own._wandb_init["id"] == (tmp_path / "wandb_id").read_text().strip() == "mine"
    again = WandbLogger(save_dir=tmp_path)  # online: the server is told that it may be known already
    keep_id(again, tmp_path, None)
    assert (again._wandb_init["id"], again._wandb_init["resume"]) == ("mine", "allow")
    (tmp_path / "agent").mkdir()
    monkeypatch.setenv("WANDB_RUN_ID", "given1")  # by `wandb agent`
    agents = WandbLogger(save_dir=tmp_path, offline=True)
    keep_id(agents, tmp_path / "agent", None)
    assert agents._wandb_init["id"] == "given1", "an agent would not find its run"
    monkeypatch.delenv("WANDB_RUN_ID")
    (tmp_path / "wandb_id").write_text("../../etc")
    with pytest.raises(ValueError, match="holds no id"):
        keep_id(WandbLogger(save_dir=tmp_path, offline=True), tmp_path, None)


@pytest.mark.parametrize(
    ("choices", "overrides", "name"),
    [
        ({"method": "topk_10"}, ["seed=2", "logger=wandb", "method=topk_10", "a.b=1"], "topk_10 seed 2 a.b=1"),
        ({"method": "topk_10"}, ["experiment=x", "loss=jsd", "method=topk_10", "seed=2"], "topk_10 seed 2 loss=jsd"),
        ({"method": "topk_10"}, ["method=topk_10", "seed=2", "budget=tokens"], "topk_10 seed 2 budget tokens"),
        (
            {"method": None},
            ["selector=bucket", "selector.lower=70", "logger=wandb"],
            "selector=bucket selector.lower=70",
        ),
        ({"method": None, "selector": "vanilla"}, ["logger=wandb"], "selector=vanilla"),
        ({}, ["x=" + 200 * "y"], "x=" + 125 * "y" + "…"),
    ],
)
def test_the_name_of_a_run(choices, overrides, name):
    assert run_name(choices, overrides) == name and len(name) <= 128


def test_the_name_of_a_sweep():
    from hydra.types import RunMode

    assert sweep_name(RunMode.MULTIRUN, "multirun/bucket_sweep") == "bucket_sweep"
    assert sweep_name(RunMode.MULTIRUN, "multirun/2026-11-24/08-42-55") == "2026-11-24 08-42-55"
    assert sweep_name(RunMode.RUN, "multirun/x") is None and sweep_name(None, "multirun/x") is None


def test_tags_are_the_groups_that_a_door_has():
    assert tags({"dataset": "gsm8k", "signal": None, "logger": "csv"}) == ["dataset=gsm8k"]
    assert [len(tag) for tag in tags({"selector": 99 * "s"})] == [64]


@pytest.mark.parametrize(
    ("variables", "logins", "expected"),
    [
        ({}, "", True),
        ({"WANDB_API_KEY": "x"}, "", False),
        ({"WANDB_API_KEY": "x", "WANDB_MODE": "offline"}, "", True),
        ({"WANDB_MODE": "online"}, "", False),
        ({"WANDB_MODE": "disabled"}, "", False),  # not offline: nothing at all is written
        ({}, "machine api.wandb.ai login user password x\n", False),
        ({"WANDB_BASE_URL": "https://wandb.example.org"}, "machine api.wandb.ai login user password x\n", True),
        ({"WANDB_BASE_URL": "https://wandb.example.org"}, "machine wandb.example.org login u password x\n", False),
    ],
)
def test_a_run_is_offline_where_there_is_no_key(variables, logins, expected, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    (tmp_path / "netrc").write_text(logins)
    (tmp_path / "netrc").chmod(0o600)
    for name, value in (variables | {"NETRC": str(tmp_path / "netrc")}).items():
        monkeypatch.setenv(name, value)
    assert door.offline() is expected


def dashboard(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Where no server could be reached."""
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "HOME": str(cwd)}
    command = [sys.executable, "-m", "ekd.dashboard", *words]
    return subprocess.run(command, cwd=cwd, env=os.environ | nowhere, capture_output=True, text=True, timeout=60)


def reads(node: object) -> set[str]:
    """The keys that the panels of a view read."""
    names: set[str] = set()
    if isinstance(node, list):
        return names.union(*map(reads, node))
    if not isinstance(node, dict):
        return names
    for key, value in node.items():
        if key == "metrics":
            names |= set(value)
        elif key in ("xAxis", "yAxis") and isinstance(value, str) and value != "_step":
            names.add(value.removeprefix("summary:"))
        elif key == "targetKey":
            names.add(value)
        elif key == "accessor":
            names.add(value.partition(":")[2].replace(".value", "", 1))
        elif key == "groupBy":
            names.add(value.removesuffix(".value"))
        elif key == "fieldSettings":
            names |= set(value.values())
        elif key == "key" and isinstance(value, dict) and value.get("nodeType") == "const":
            names.add(value["val"])
        elif key == "value" and node.get("name") == "tableKey":
            names.add(value)
        elif key == "key" and value.get("section") == "config":
            names.add(value["name"])
        else:
            names |= reads(value)
    return names


def test_the_dashboard_reads_what_it_says_it_reads_and_nothing_else(tmp_path):
    pytest.importorskip("wandb_workspaces", reason="pip install 'ekd[dashboard]'")
    done = dashboard("--dry-run", "--project", "mine", "--group", "bucket_sweep", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    view = json.loads(done.stdout)
    assert view["project"] == "mine" and "bucket_sweep" in view["displayName"]
    tables = {name for table, columns in READS.tables.items() for name in (table, *columns)}
    assert reads(view["spec"]) == {*READS.figures, *READS.bucket, *READS.config, *tables}
    (runs,) = view["spec"]["section"]["runSets"]
    assert runs["grouping"] == [{"section": "config", "name": "method.value"}]
    assert {"group": "bucket_sweep", "budget": "steps"}.items() <= {
        rule["key"]["name"]: rule["value"] for rule in runs["filters"]["filters"] if isinstance(rule["value"], str)
    }.items()
    again = dashboard("--dry-run", "--project", "mine", "--group", "bucket_sweep", cwd=tmp_path)
    assert again.stdout == done.stdout, "an unchanged dashboard is an unchanged file"


def test_the_dashboard_asks_for_an_entity(tmp_path):
    done = dashboard(cwd=tmp_path)
    assert done.returncode == 2 and "--entity" in done.stderr and "Traceback" not in done.stderr


def test_what_agents_are_given_composes(tmp_path):
    done = dashboard("--agent", cwd=tmp_path)
    sweep = yaml.safe_load(done.stdout)
    env, python, *command, last = sweep["command"]
    assert (env, python, last) == ("${env}", "python", "${args_no_hyphens}") and command[:2] == ["-m", "ekd.train"]
    names, values = zip(*((name, one["values"]) for name, one in sweep["parameters"].items()), strict=True)
    for given in product(*values):
        words = [f"{name}={value}" for name, value in zip(names, given, strict=True)]
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            assert hydra.compose("train", [*command[2:], *words])
    assert sweep["metric"]["name"] in READS.figures
