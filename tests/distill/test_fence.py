"""A stranger's run is read: nothing that it names is called, nothing that it asks for is told, nothing hangs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from test_train import ekd

from ekd.cli.conf import composed
from ekd.cli.door import build
from ekd.distill.fence import check_run, checked_part, config_of
from ekd.models.load import load_model, load_tokenizer
from ekd.report.viewer.reading import dataset_of

ARITHMETIC = {
    "_target_": "ekd.dataset.arithmetic.Arithmetic",
    "seed": 0,
    "train": 4,
    "val": 2,
    "test": 2,
    "kinds": None,
}
ARITHMETIC |= {"levels": [1]}
PROMPT = {"_target_": "ekd.models.prompt.Prompt", "system": "", "instruction": "", "shots": 0, "thinking": None}
NO = {"trust_remote_code": False, "api_key_env": None}

CALLS = [  # what is no class of a room, however it is written
    "ekd.export.convert",
    "os.system",
    "builtins.eval",
    "subprocess.Popen",
    "torch.load",
    "functools.partial",
    "ekd.dataset.hub.Path",  # imported by a room's file
    "ekd.dataset.jsonl.grade",  # a function
    "ekd.dataset.hub.load_dataset",
    "ekd.dataset.hub.Hub.problems",
    "ekd.dataset..hub.Hub",
    "ekd.dataset.nowhere.Nothing",
    "ekd.teacher.hf.HF",  # another room's
    "ekd.data.collect.Collector",
    "hydra.utils.instantiate",
    " ekd.dataset.hub.Hub",
    "ekd.dataset.hub.Hub\n",
    None,
    ["ekd.dataset.hub.Hub"],
    {"_target_": "os.system"},
]


@pytest.mark.parametrize("target", CALLS)
@pytest.mark.parametrize("deep", [False, True])
def test_only_classes_of_the_room_are_built(target: Any, deep: bool) -> None:
    bad = ARITHMETIC | ({"kinds": [{"x": {"_target_": target}}]} if deep else {"_target_": target})
    with pytest.raises(ValueError, match="stranger") as caught:
        checked_part({"dataset": bad}, "dataset", decided={})
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("key", ["_partial_", "_args_", "_recursive_", "_convert_", "_anything_"])
def test_instructions_to_hydra_are_refused(key: str) -> None:
    for bad in (ARITHMETIC | {key: True}, ARITHMETIC | {"levels": [{key: []}]}):
        with pytest.raises(ValueError, match=f"{key} is .*stranger"):
            checked_part({"dataset": bad}, "dataset", decided={})


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "a ${oc.env:HF_TOKEN,x} b", "${..seed}", "???", r"\${oc.env:A}"])
def test_interpolations_are_refused_wherever_they_stand(text: str) -> None:
    for part, config in (
        ("dataset", {"dataset": ARITHMETIC | {"kinds": [text]}}),
        ("prompt", {"prompt": PROMPT | {"system": text}}),
        ("student.model", {"student": {"model": text}}),
    ):
        with pytest.raises(ValueError, match="which no trained run holds"):
            checked_part(config, part, decided={})


@pytest.mark.parametrize("config", [{}, {"dataset": None}, {"dataset": "x"}, {"dataset": []}, []])
def test_a_part_that_is_not_there_is_a_sentence(config: Any) -> None:
    for part in ("dataset", "data.collector", "student.model"):
        with pytest.raises(ValueError, match=f"nothing that can be used of {part}"):
            checked_part(config, part, decided={})


def test_what_a_run_of_ours_holds_is_built_as_it_was() -> None:
    mixed = {"_target_": "ekd.dataset.mixed.Mixed", "parts": {"a": ARITHMETIC}, "weights": None}
    assert checked_part({"dataset": mixed}, "dataset", decided={}) == mixed
    assert type(build(checked_part({"dataset": mixed}, "dataset", decided={}))).__name__ == "Mixed"
    assert build(checked_part({"prompt": PROMPT}, "prompt", decided={})).shots == 0
    assert checked_part({"student": {"model": "smollm2", "layers": [0, 5]}}, "student.layers", decided={}) == [0, 5]


def test_a_runs_word_for_secrets_and_for_code_is_not_taken() -> None:
    teacher = {"_target_": "ekd.teacher.openai.OpenAI", "endpoints": ["http://evil"], "api_key_env": "AWS_SECRET"}
    made = {"_target_": "ekd.data.collect.Collector", "teacher": teacher, "trust_remote_code": True}
    held = checked_part({"data": {"collector": made}}, "data.collector", decided=NO)
    assert (held["trust_remote_code"], held["teacher"]["api_key_env"]) == (False, None)
    with pytest.raises(ValueError, match="stranger"):
        checked_part(
            {"data": {"collector": made | {"teacher": {"_target_": "os.system"}}}}, "data.collector", decided=NO
        )


def test_the_users_own_class_is_the_users_word() -> None:
    bad = ARITHMETIC | {"_target_": "mine.Dataset"}
    held = checked_part({"dataset": bad}, "dataset", decided={}, own="mine.Dataset")
    assert held == bad
    with pytest.raises(ValueError, match="stranger"):  # but only for the whole
        checked_part({"dataset": bad | {"kinds": {"_target_": "os.system"}}}, "dataset", decided={}, own="mine.Dataset")


# ---- folders


def run_of(folder: Path, **groups: Any) -> Path:
    (folder / "student").mkdir(parents=True)
    config = {"dataset": ARITHMETIC, "prompt": PROMPT, "student": {"model": "tiny", "layers": "all"}} | groups
    (folder / "run.json").write_text(json.dumps({"config": config}))
    return folder


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"config": 3}', "[" * 100_000])
def test_a_run_that_is_none_is_a_sentence(tmp_path: Path, content: str) -> None:
    run = run_of(tmp_path / "run")
    (run / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json") as caught:
        config_of(run)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name", ["run.json", "answers.jsonl", "student/weights", "report/index.html", "eval/a/b", "csv/x"]
)
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_links_and_pipes_in_a_run_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    run = run_of(tmp_path / "run")
    (tmp_path / "precious").write_text("mine")
    (run / name).unlink(missing_ok=True)
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).symlink_to(tmp_path / "precious") if kind == "link" else os.mkfifo(run / name)
    with pytest.raises(ValueError, match="is a link" if kind == "link" else "neither a file nor a folder"):
        check_run(run)


def test_a_run_may_be_reached_by_a_link_and_keep_links_that_nobody_reads(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").symlink_to("step=1.ckpt")
    (tmp_path / "latest").symlink_to(run)
    assert config_of(tmp_path / "latest")["dataset"] == ARITHMETIC


def test_the_viewer_takes_a_runs_dataset_only_through_the_fence(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    assert dataset_of(str(run), "Arithmetic") == ARITHMETIC
    bad = run_of(tmp_path / "bad", dataset=ARITHMETIC | {"_target_": "tests.Arithmetic"})
    with pytest.raises(ValueError, match="stranger"):
        dataset_of(str(bad), "Arithmetic")


# ---- through the command line


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fence")


@pytest.fixture(scope="module")
def stranger(place: Path) -> Iterator[Path]:
    """A run that looks whole, whose config would start a converter that leaves a mark."""
    run = place / "stranger"
    load_model("tiny").save_pretrained(run / "student")
    load_tokenizer("tiny").save_pretrained(run / "student")
    (place / "converter.py").write_text(f"open({str(place / 'pwned')!r}, 'w')")
    call = {
        "_target_": "ekd.export.convert",
        "converter": {"_target_": "pathlib.Path", "_args_": [str(place / "converter.py")]},
    }
    call |= {"folder": "x", "file": {"_target_": "pathlib.Path", "_args_": [str(place / "y")]}, "outtype": "f32"}
    config = {"dataset": call, "prompt": call, "data": {"collector": call, "val_problems": 2}}
    config |= {"student": {"model": "tiny", "layers": "all"}}
    (run / "run.json").write_text(json.dumps({"config": config}))
    yield run
    assert not (place / "pwned").exists()


@pytest.mark.parametrize("words", [[], ["perplexity"], ["dataset.seed=1", "prompt=boxed"]])
def test_evaluating_a_strangers_run_calls_nothing(place: Path, stranger: Path, words: list[str]) -> None:
    done = ekd("evaluate", *words, f"run={stranger}", "student.device=cpu", f"out={place / 'o'}", cwd=place)
    assert (done.returncode, "a run may be a stranger's" in done.stderr) == (2, True), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


PLUGIN = """
from dataclasses import dataclass
from ekd.dataset.arithmetic import Arithmetic
from ekd.selector.topk import TopK

@dataclass(frozen=True, kw_only=True)
class Mine(TopK):
    pass

@dataclass(frozen=True, kw_only=True)
class Sums(Arithmetic):
    pass
"""


def test_a_plugin_of_the_users_own_trains_and_is_named_again_to_be_evaluated(place: Path) -> None:
    (place / "plugin.py").write_text(PLUGIN)
    path = os.pathsep.join([str(place), str(Path(__file__).parents[2])])
    words = ["experiment=tiny", "selector=topk", "selector._target_=plugin.Mine", "dataset._target_=plugin.Sums"]
    words += ["trainer.max_steps=1", "trainer.val_check_interval=1", "benchmark.problems=0"]
    done = ekd("train", *words, f"hydra.run.dir={place / 'mine'}", cwd=place, PYTHONPATH=path)
    assert done.returncode == 0, done.stdout + done.stderr
    asked = [f"run={place / 'mine'}", "benchmark.problems=2", "benchmark.max_new_tokens=4", f"out={place / 'judged'}"]
    done = ekd("evaluate", *asked, cwd=place, PYTHONPATH=path)
    assert (done.returncode, "dataset._target_=" in done.stderr) == (2, True)
    done = ekd("evaluate", *asked, "dataset._target_=plugin.Sums", cwd=place, PYTHONPATH=path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("words", [["contrast=with_answer"], ["policy=student"], ["teacher_prompt=few_shot"]])
def test_what_our_own_runs_say_of_their_texts_may_be_read_back(words):
    data: Any = OmegaConf.to_container(composed("train", tuple(words)).data, resolve=True)
    assert checked_part({"data": data}, "data.collector", decided=NO)["_target_"].endswith("Collector")
