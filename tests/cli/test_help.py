"""What a command says of itself, and the one word for all commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from ekd.cli.conf import composed, options
from ekd.cli.embedded import completed, is_method
from ekd.cli.helping import comments, page
from ekd.method import CONF

COMMANDS = ("train", "trace", "evaluate", "perplexity", "harness", "chat", "report", "export")


def leaves(node: DictConfig, path: str = "") -> list[str]:
    """Settings that hold a value of their own, or follow from a model's name."""
    found = []
    for key, value in OmegaConf.to_container(node).items():  # type: ignore[union-attr]
        at = f"{path}{key}"
        if key in ("hydra", "_target_", "_partial_") or (str(value).startswith("${") and "${ekd." not in str(value)):
            continue
        found += leaves(node[key], f"{at}.") if isinstance(value, dict) and value else [at]
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_setting_and_what_the_yaml_says_of_it(name):
    said = " ".join(page(name).split())
    missing = [leaf for leaf in leaves(composed(name)) if f" {leaf}=" not in said]
    assert not missing
    assert f"usage: python -m ekd.{'evaluate ' if name in ('perplexity', 'harness') else ''}{name} [" in said
    for key, comment in comments(CONF / f"{name}.yaml").items():
        if comment and f" {key}=" in said:
            assert " ".join(comment.split()) in said, key


def test_help_shows_choices_and_the_settings_of_the_one_that_is_named():
    usual, other = page("train"), page("train", ("selector=topk", "student=lora"))
    assert (
        "selector=vanilla\n  or adaptive, bucket," in usual
        and " selector.k_percent=20 " not in usual.partition("selector=vanilla")[2]
    )
    assert "selector.k_percent=20" in other and "percent of the rows" in other
    assert (
        "student.lora.r=16" in other
        and "rank" in other
        and "student.optimizer.lr=0.0002" in page("train", ("student=lora", "student.model=somebody/model"))
    )
    assert usual.index("\nteacher=") < usual.index("\nselector=") < usual.index("other settings")


def ekd(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ekd", *words], cwd=cwd, capture_output=True, text=True, timeout=300)


def test_one_word_for_all_commands(tmp_path):
    assert "doctor" in ekd(cwd=tmp_path).stdout
    wrong = ekd("trian", cwd=tmp_path)
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: there is no ekd trian (did you mean train?)")
    mistaken = ekd("train", "selector=topkk", cwd=tmp_path)
    assert mistaken.returncode == 2 and "did you mean topk?" in mistaken.stderr
    words = ["experiment=tiny", "trainer.max_steps=1", "benchmark.problems=0", f"hydra.run.dir={tmp_path / 'run'}"]
    done = ekd("train", *words, cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "run" / "metrics.json").exists(), done.stderr


def test_the_doctor_says_what_is_there(tmp_path):
    said = ekd("doctor", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    lines = dict(
        line.split(maxsplit=1) for line in said.stdout.splitlines() if not line.startswith(("embedded", "ekd's", "hub"))
    )
    assert {"ekd", "python", "torch", "memory", "cpu", "Ollama"} <= set(lines) and lines["peft"]
    assert ekd("doctor", "now", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("words", "becomes"),
    [
        (["selector=bucket", "selector.lower=70"], ["selector=bucket", "selector.lower=70", "experiment=demo"]),
        (["-m", "experiment=sekd", "seed=0,1"], ["-m", "experiment=[demo,sekd]", "seed=0,1"]),
        (["source=rounds", "loss=reverse_kl"], ["source=rounds", "loss=reverse_kl", "experiment=demo"]),
        (["experiment=tiny"], None),  # each of these knows its own models or data
        (["experiment=bucket_sweep"], None),
        (["experiment=qwen3"], None),
        (["experiment=sekd", "student.model=tiny"], None),
        (["dataset=gsm8k"], None),
        (["teacher=ollama", "selector=topk"], None),
        (["--help"], None),
        (["--config-dir", "own", "--config-name", "mine"], None),
    ],
)
def test_a_command_without_models_and_data_is_the_embedded_job(words, becomes):
    assert completed("train", words) == (becomes or words)
    assert completed("trace", words) == words


def test_a_preset_of_a_method_stands_on_the_embedded_job():
    known = composed(
        "train", ("experiment=[demo,opsd]",)
    )  # both choose what the teacher reads: the method's choice holds
    assert "solution" in known.teacher_prompt.question and known.data.train_problems == 128
    for preset in options("experiment"):
        if is_method(preset):
            assert composed("train", (f"experiment=[demo,{preset}]",)).student.layers == "all", preset
    config = composed("train", ("experiment=[demo,sekd]",))
    assert (config.teacher.mode, config.student.layers, config.selector.k_percent) == ("score", "all", 20)
    assert "student_entropy" in config.signal._target_
