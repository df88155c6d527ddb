"""What earlier versions called things: each old word has a new one, and a run of version 0.1 is read as any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf
from test_train import ekd

from ekd.cli.conf import CONF
from ekd.distill.fence import config_of
from ekd.eval.answers import kept_file
from ekd.export.formats import finished_run, sampling
from ekd.files import home
from ekd.method import method_of
from ekd.models.checkpoint import check_same_run
from ekd.models.load import load_model, load_tokenizer
from ekd.renamed import CHOICES, KEYS, current_key, current_run, current_word
from ekd.report.pages import run_page
from ekd.report.sweep import read_cell

RUN = Path(__file__).parent / "fixtures" / "run_0_1"  # python -m ekd.train experiment=tiny selector=bucket, at d2139f2


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    """A copy of the kept run; its student, which is not kept, is the model that it began with."""
    run = tmp_path_factory.mktemp("old") / "run"
    shutil.copytree(RUN, run)
    load_model("tiny").save_pretrained(run / "student")
    load_tokenizer("tiny").save_pretrained(run / "student")
    return run


@pytest.mark.parametrize("key", KEYS)
def test_every_new_name_is_a_key_of_today(key):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        words = ["teacher=ollama", "callback=benchmark", "hydra.runtime.output_dir=."]
        name = "evaluate" if key.startswith("generator") else "train"
        config = hydra.compose(name, ["generator=ollama"] if name == "evaluate" else words)
    missing = object()
    assert OmegaConf.select(config, current_key(key), default=missing) is not missing
    assert current_key(current_key(key)) == current_key(key) != key


def test_every_new_choice_is_there():
    assert all((CONF / group / f"{choice}.yaml").is_file() for (group, _), choice in CHOICES.items())


@pytest.mark.parametrize(
    "word", ["seed=1", "benchmark=full", "data/samples=top", "-m", "student.unmatched=end", "a=b=c"]
)
def test_other_words_are_as_they_were(word):
    assert current_word(word) == word


def test_a_run_of_before_has_the_names_of_today():
    config = config_of(RUN)
    assert config["benchmark"]["problems"] == 4 and config["student"]["unmatched"] == "end"
    assert config["baselines"] == {"teacher": True, "before": True} and not {"exam", "judge"} & set(config)
    made = current_run(json.loads((RUN / "metrics.json").read_text()))
    assert set(made["figures"]["benchmark"]) == {"teacher", "student before", "student after"}
    assert current_run(made) == made, "what is of today stays"


def test_a_run_of_before_has_a_method():
    assert method_of(config_of(RUN)).name == "bucket_70_80"
    raw = json.loads((RUN / "run.json").read_text())["config"]
    raw["student"]["hard_rows"] = "all"
    assert method_of(raw).unmatched == "all"


def test_a_run_of_before_is_reported(old):
    page = run_page(old).read_text()
    assert "accuracy, student after" in page and "bucket_70_80" in page
    assert read_cell(old, old).figures["benchmark"]["teacher"]["problems"] == 4
    done = ekd("report", f"run={old}", cwd=old.parent)
    assert done.returncode == 0, done.stderr


def test_a_run_of_before_is_evaluated_and_exported(old):
    done = ekd("evaluate", f"run={old}", "benchmark.problems=2", "benchmark.max_new_tokens=4", cwd=old.parent)
    assert done.returncode == 0, done.stderr
    (found,) = old.glob("eval/*/metrics.json")
    assert json.loads(found.read_text())["benchmark"]["problems"] == 2
    assert sampling(finished_run(str(old))[1]["config"])["temperature"] == 0


def test_the_teacher_of_a_run_of_before_traces_again(old):
    done = ekd("evaluate", "perplexity", f"run={old}", "problems=2", cwd=old.parent)
    assert done.returncode == 0, done.stderr


def test_a_checkpoint_of_before_goes_on():
    check_same_run(Path("x.ckpt"), {"student.hard_rows": "end"}, {"student.unmatched": "end"})
    made = {key: OmegaConf.load(CONF / "student" / "default.yaml")["_target_"] for key in ["student._target_"]}
    for before in ("ekd.student.Student", "ekd.distill.student.Student"):
        check_same_run(Path("x.ckpt"), {"student._target_": before}, made)
    with pytest.raises(ValueError, match=r"student\.unmatched is 'all' there, 'end' here"):
        check_same_run(Path("x.ckpt"), {"student.hard_rows": "all"}, {"student.unmatched": "end"})


def test_answers_that_version_0_1_kept_are_found():
    assert kept_file("new") == home() / "benchmark" / "new.jsonl"
    (home() / "exams").mkdir(parents=True)
    (home() / "exams" / "old.jsonl").touch()
    assert kept_file("old") == home() / "exams" / "old.jsonl"


@pytest.mark.parametrize("door", ["train", "trace"])
def test_an_old_key_in_a_yaml_of_the_user_s_own_is_said(door, tmp_path):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\nexam:\n  problems: 4\n")
    done = ekd(door, "--config-dir", str(tmp_path / "own"), "experiment=mine", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr == "error: exam has a new name: write benchmark\n"
