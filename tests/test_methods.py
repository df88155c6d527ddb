"""The page of all methods is true, and every method by name can be built."""

import ast
import math
import subprocess
import sys
from pathlib import Path

import lightning
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ekd.distill.compatibility import check_compatibility

ROOT = Path(__file__).parents[1]
GROUPS = ("signal", "selector", "loss")
SIDES = ("gate", "source", "policy", "data", "teacher", "student")
WRITERS = {"/source: rounds": "source", "/source: mix": "source.rounds", "/policy: student": "policy"}
YAMLS = sorted(path for group in GROUPS for path in (ROOT / "conf" / group).glob("*.yaml"))
PRESETS = sorted(
    path
    for path in (ROOT / "conf" / "experiment").glob("*.yaml")
    # what differs is a part of the method or what it needs of teacher and student; tiny and demo choose no group
    if set(OmegaConf.load(path)) <= {"defaults", *GROUPS, *SIDES}
    and "defaults" in OmegaConf.load(path)
    and not any(isinstance(one, str) for one in OmegaConf.load(path)["defaults"])  # it stands on another experiment
)
# Published on the student's own texts, most of them; the presets leave it to `source=` whose they are.
EITHER = (
    "rising_position",
    "falling_position",
    "accumulated_discrepancy",
    "bridge_garden",
    "bridge_garden_reversed",
    "soft_clamp",
    "truncated_reverse_kl",
    "token_teachability",
    "rock_tokens",
)


def configured(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", list(overrides))


def parts(*overrides: str) -> list[str]:
    config = configured(*overrides)
    return [repr(instantiate(config[group], _convert_="all")) for group in GROUPS]


def test_the_page_is_up_to_date() -> None:
    script = ROOT / "scripts" / "methods_table.py"
    done = subprocess.run([sys.executable, script, "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_builds_and_differs_from_the_others(path: Path) -> None:
    here = parts(f"experiment={path.stem}")
    for other in PRESETS:
        if other != path and other.read_text().split("defaults:")[1] == path.read_text().split("defaults:")[1]:
            pytest.fail(f"{path.stem} is {other.stem} under another name: {here}")


def test_the_originals_presets_are_what_it_said() -> None:
    assert parts("experiment=ekd") == parts("signal=teacher_entropy", "selector=topk", "selector.k_percent=20")
    assert parts("experiment=bucket") == parts("selector=bucket", "selector.lower=70", "selector.upper=80")
    assert parts("experiment=teacher_free") == parts("loss=cross_entropy")
    assert parts("experiment=vanilla") == parts()


def test_three_axes_are_chosen_by_the_students_entropy() -> None:
    config = configured("experiment=sekd3x")
    data = instantiate(config.data, _convert_="all")
    assert repr(data.samples.by) == "StudentEntropy()" and data.samples.percent == 20
    assert data.collector.teacher.draws == 64 and parts("experiment=sekd3x") == parts("experiment=sekd")
    assert repr(instantiate(configured("experiment=kl_samples").data, _convert_="all").samples.by) == "KL()"
    by = configured("data/samples=top", "signal@data.samples.by=ce_ratio", "data.samples.by.entropy=plus").data.samples
    assert instantiate(by, _convert_="all").by.entropy == "plus"
    assert instantiate(configured("data/samples=random").data, _convert_="all").samples.seed == 0
    assert instantiate(configured().data, _convert_="all").samples is None


def test_a_preset_can_be_changed_on_the_command_line() -> None:
    changed = parts("experiment=sekd", "selector.k_percent=5")
    assert changed == parts("signal=student_entropy", "selector=topk", "selector.k_percent=5")


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_one_class_one_file_one_yaml(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line]
    assert lines[0].startswith("# ") and lines[0].endswith((".", ")")), "the first line says what it is"
    config = OmegaConf.load(path)
    group, name = path.parent.name, path.stem
    module, class_name = config["_target_"].rsplit(".", 1)
    assert module == f"ekd.{group}.{name}"
    tree = ast.parse((ROOT / "ekd" / group / f"{name}.py").read_text())
    assert [node.name for node in tree.body if isinstance(node, ast.ClassDef)] == [class_name]
    arguments = [line for line in lines[1:] if not line.startswith((" ", "#", "_target_", "defaults"))]
    assert all(" # " in line for line in arguments), "every argument has its meaning in a trailing comment"


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_takes_a_few_steps_and_what_it_pays_stays_a_price(path: Path, tmp_path: Path) -> None:
    """The real parts, put together as the train door does; scripts/run_presets.py runs 150 steps of each."""
    takes_a_few_steps(tmp_path, path.stem, path.read_text())


@pytest.mark.parametrize("name", EITHER)
def test_what_was_published_on_policy_runs_there_too(name: str, tmp_path: Path) -> None:
    said = (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text()
    takes_a_few_steps(tmp_path, name, f"{said}/source: rounds", "source=rounds")


def takes_a_few_steps(tmp_path: Path, name: str, said: str, *more: str) -> None:
    shorter = [f"{where}.sampling.max_new_tokens=16" for choice, where in WRITERS.items() if choice in said]
    config = configured(
        f"experiment=[tiny,{name}]",
        *more,
        "trainer.max_steps=3",
        "data.train_problems=12",
        "data.val_problems=2",
        *shorter,
    )
    data, student = (instantiate(config[group], _convert_="all") for group in ("data", "student"))
    check_compatibility(data, student)
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=3, num_sanity_val_steps=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        default_root_dir=tmp_path,
        gradient_clip_val=config.trainer.get("gradient_clip_val"),
    )  # fmt: skip
    trainer.fit(student, data)
    # a reward may be of either sign; so may a reverse KL whose tail is cut off, by 1/e at most
    least = -1e3 if "/loss: policy_gradient" in said else -0.37 if "tail: truncate" in said else 0
    assert trainer.global_step == 3 and least <= float(trainer.logged_metrics["train/loss"]) < 1e3
    assert math.isfinite(float(trainer.validate(student, data, verbose=False)[0]["val/kl"]))
