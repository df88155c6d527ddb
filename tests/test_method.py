"""What a run's method is, read off its config: named by what is not usual, equal when equal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ekd.cli.door import CONF, register
from ekd.method import ORIGINAL, TEACHER_FREE, UNSCORED, VANILLA, Method, method_of, tiling

PRESETS = [f for group in ("experiment", "method") for f in sorted((CONF / group).glob("*.yaml"))]
# What they set is no part of a method.
NO_METHODS = {
    "tiny",
    "demo",
    "tiny_student",
    "bucket_sweep",
    "cpu_study",
    "cross_tokenizer",
    "bucket_search",
    "context_distillation",
    "on_policy_grid",
    "qwen3",
    "qwen3_11gb",
    "qwen3_served",
    "qwen3_thinking",
}
GROUPS = ("selector", "signal", "loss", "gate", "data", "teacher", "student", "source", "policy")

register()


def method(*overrides: str) -> Method:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", list(overrides))
    return method_of(
        {name: OmegaConf.to_container(config[name], resolve=True) for name in GROUPS if config.get(name) is not None}
    )


def test_every_preset_has_a_name_of_its_own_and_equal_presets_have_one() -> None:
    found: dict[Method, list[str]] = {}
    for file in PRESETS:
        if file.stem not in NO_METHODS and not file.stem.startswith(("small_world", "smollm2_study")):
            found.setdefault(method(f"{file.parent.name}={file.stem}"), []).append(file.stem)
    names = [one.name for one in found]
    assert len(set(names)) == len(names)
    twice = sorted(tuple(sorted(set(group))) for group in found.values() if len(group) > 1)
    assert twice == [
        ("accumulated_discrepancy", "score_weighted-accumulated_of_excess_ce"),
        ("alm", "vanilla-span_kl"), ("bridge_garden", "vanilla-hard_others_teacher_uncertainty"),
        ("bridge_garden_reversed", "vanilla-hard_chosen_teacher_uncertainty"), ("bucket", "bucket_70_80"),
        ("ekd", "topk_20"), ("falling_position", "score_weighted-late_falling"),
        ("lightning_opd", "vanilla-policy_gradient-student"),
        ("on_policy", "vanilla-reverse_kl-rounds"), ("prefix", "topk_30-position_prefix"), ("random", "random_20"),
        ("rising_position", "score_weighted-late"), ("sekd", "topk_20-student_entropy"),
        ("sekd_kl", "topk_20-weighted_normalise_none_signals_kl_student_entropy"), ("teacher_free",),
        ("token_teachability", "topk_5-teachability"), ("uld", "vanilla-uld-ce_0.4"), ("vanilla",),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ((), "vanilla"),
        (("loss=dkd",), "vanilla-dkd"),
        (("loss=dkd", "loss.beta=2"), "vanilla-dkd_beta_2"),
        (("selector=topk", "signal=student_entropy"), "topk_20-student_entropy"),
        (("selector=topk", "selector.scope=batch"), "topk_20_scope_batch"),
        (("selector=bucket", "selector.lower=70", "selector.upper=80.0"), "bucket_70_80"),
        (("selector=random", "signal=kl"), "random_20"),
        (("loss=cross_entropy",), "teacher_free"),
        (("student.alpha_ce=1",), "teacher_free"),
        (("student.alpha_ce=0.5",), "vanilla-ce_0.5"),
        (("gate=hard_label",), "vanilla-hard_others_topk_20_teacher_entropy"),
        (("experiment=bridge_garden",), "vanilla-hard_others_teacher_uncertainty"),
        (
            ("gate=hard_label", "selector@gate.selector=random", "gate.hard=chosen"),
            "vanilla-hard_chosen_random_20",
        ),
        (("student.tail=truncate", "selector=topk"), "topk_20-truncate"),
        (("data/samples=top", "signal@data.samples.by=kl"), "vanilla-top_samples_20_by_kl"),
        (("data/samples=random",), "vanilla-random_samples_20"),
        (("data/samples=random", "data.samples.seed=3"), "vanilla-random_samples_20"),
        (("teacher.draws=64",), "vanilla-draws_64"),
        (("source=rounds", "source.samples=2"), "vanilla-rounds_samples_2"),
        (("experiment=gkd",), "vanilla-jsd-mix"),
        (
            ("experiment=gkd", "source.share=0.2", "source.rounds.sampling.top_p=0.9"),
            "vanilla-jsd-mix_top_p_0.9_share_0.2",
        ),
        (("experiment=opsd",), "vanilla-jsd-rounds_temperature_1.2_top_p_0.95"),
        (("experiment=lightning_opd",), "vanilla-policy_gradient-student"),
        (("policy=student", "policy.sampling.temperature=0.5"), "vanilla-student_temperature_0.5"),
        (("source=stores", "source.paths=[/a/b]"), "vanilla-stores_paths_a_b"),
    ],
)
def test_a_method_is_named_by_what_differs_from_the_defaults(overrides: tuple[str, ...], name: str) -> None:
    assert method(*overrides).name == name


@pytest.mark.parametrize("file", sorted((CONF / "method").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_file_of_conf_method_is_called_what_it_is(file: Path) -> None:
    assert method(f"method={file.stem}").name == file.stem


@pytest.mark.parametrize("sweep", ["bucket_sweep", "cross_tokenizer", "on_policy_grid"])
def test_a_sweep_names_methods_that_there_are(sweep: str) -> None:
    named = OmegaConf.load(CONF / "experiment" / f"{sweep}.yaml").hydra.sweeper.params.method.split(",")
    assert len(set(named)) == len(named) >= 4
    assert set(named) <= {file.stem for file in (CONF / "method").glob("*.yaml")}


def test_equal_methods_are_equal_values_whatever_repeats_or_cuts_the_work() -> None:
    same = ("seed=3", "student.head_mb=7", "student.optimizer.lr=1e-4", "data.max_tokens=99", "teacher.model=tiny")
    assert method(*same, "selector=random", "selector.seed=5") == method("selector=random")
    assert len({method(), method("student.unmatched=all"), method("student.tail=renormalise")}) == 3
    assert (method(), method("method=bucket_70_80"), method("method=teacher_free")) == (VANILLA, ORIGINAL, TEACHER_FREE)


def test_selectors_without_a_score_are_those_that_do_not_look_at_it() -> None:
    """Two scores in opposite order: who chooses alike does not look."""
    sequence, score = torch.zeros(40, dtype=torch.long), torch.arange(40.0)
    blind = set()
    for file in sorted(Path(CONF / "selector").glob("*.yaml")):
        config = compose_selector(file.stem)
        if file.stem == "adaptive":
            config.k_percent = 20  # it begins with every row
        one, other = (instantiate(config, _convert_="all")(values, sequence) for values in (score, score.flip(0)))
        if torch.equal(one, other):
            blind.add(file.stem)
    assert blind == set(UNSCORED)


def compose_selector(name: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [f"selector={name}"]).selector


def test_tiles_do_not_depend_on_the_order_in_which_a_set_has_its_methods() -> None:
    some = [method(f"method={name}") for name in ("bucket_70_80", "bucket_0_20", "vanilla")]
    assert [one.name for one in tiling(some)] == [one.name for one in tiling(some[::-1])] == ["bucket_0_20"]
