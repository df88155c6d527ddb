"""The house itself: every config builds what it names, and the path is the name."""

from __future__ import annotations

from dataclasses import is_dataclass
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf
from torch import nn

from ekd.cli.door import CONF, build, register

ROOT = Path(__file__).parents[1]
ROOMS = {"dataset", "teacher", "signal", "selector", "loss", "store"}
GLOBAL = ("experiment", "method", "budget")  # groups whose files hold differences to the whole config
GROUPS = sorted(f for f in CONF.glob("*/*.yaml") if f.parent.name not in GLOBAL)
PRESETS = sorted(f"{f.parent.name}={f.stem}" for f in CONF.glob("*/*.yaml") if f.parent.name in GLOBAL)
# What a config cannot know: it is refused without them.
REQUIRED = {
    "dataset=jsonl": ["dataset.test=problems.jsonl"],
    "dataset=corpus": ["dataset.train=text.txt"],
    "dataset=hub": ["dataset.name=openai/gsm8k"],
    "source=stores": ["source.paths=[traces]"],
    "teacher_prompt=text": ["teacher_prompt.question=Hint"],
    "contrast=text": ["contrast.question=Hint"],
}

register()


def actor(file: Path) -> str:
    """A yaml's class by its file's name; of one that only changes another's values (arithmetic_small), the other's."""
    node = OmegaConf.load(file)
    return file.stem if "_target_" in node else node.defaults[0]


def composed(*overrides: str, name: str = "train"):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(name, [*overrides, "hydra.runtime.output_dir=out"], return_hydra_config=True)


def resolved(config, group: str):
    OmegaConf.set_struct(config, False)
    from hydra.core.hydra_config import HydraConfig

    HydraConfig.instance().set_config(config)
    return build(config[group])


@pytest.mark.parametrize("file", GROUPS, ids=lambda f: f"{f.parent.name}={f.stem}")
def test_every_config_builds_what_it_names(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    group, name = file.parent.name, file.stem
    if group in ("trainer", "logger", "launcher", "generator", "callback") and name in (
        "tensorboard",
        "wandb",
        "submitit",
    ):
        pytest.importorskip("tensorboard" if name == "tensorboard" else name)
    door = next(d for d in ("train", "evaluate", "trace") if f"{group}:" in (CONF / f"{d}.yaml").read_text())
    config = composed(f"{group}={name}", *REQUIRED.get(f"{group}={name}", []), name=door)
    made = resolved(config, group)
    assert made is not None
    target = config[group].get("_target_", "")
    if target.startswith("ekd.") and group in ROOMS:
        assert target.split(".")[1:3] == [group, actor(file)], "the path is the name"
        assert isinstance(made, nn.Module) or (is_dataclass(made) and made.__dataclass_params__.frozen)
        with pytest.raises((AttributeError, TypeError)):
            made.model = made.nothing  # frozen, and no attribute made up on the fly
    first = file.read_text().splitlines()[0]
    assert first.startswith("#"), "a config begins by saying what it is"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_composes_and_builds(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = composed(name)
    for group in ("teacher", "dataset", "signal", "selector", "loss", "student", "data", "benchmark", "trainer"):
        assert resolved(config, group) is not None
    text = (CONF / f"{name.replace('=', '/')}.yaml").read_text()
    assert text.startswith("# @package _global_\n#"), "a preset says what it is on its second line"


def test_every_room_file_with_a_config_and_every_config_with_a_room_file():
    for group in ROOMS - {"store"}:
        for file in (CONF / group).glob("*.yaml"):
            assert (ROOT / "ekd" / group / f"{actor(file)}.py").exists(), f"{file} names no room"


def test_init_files_are_empty_but_the_packages_own_which_registers_what_conf_calls():
    assert not [f for f in (ROOT / "ekd").glob("*/**/__init__.py") if f.read_text().strip()]
    assert "def " not in (ROOT / "ekd" / "__init__.py").read_text()
