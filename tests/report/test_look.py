"""Names in a figure: short enough to be read, and still those of different methods."""

from __future__ import annotations

import warnings

import pytest

from ekd.method import ORIGINAL, VANILLA, Method, Part
from ekd.report import figures
from ekd.report.effects import compare_methods, estimate
from ekd.report.section import KL, Result
from ekd.report.short import left_out, short_names

ROUNDS = Part("rounds", (("problems_per_round", 24.0), ("steps_per_round", 4.0)))
TOPK = Part("topk", (("k_percent", 20.0), ("scope", "sequence")))
RANDOM = Part("random", (("k_percent", 20.0), ("scope", "sequence")))
REVERSE = Part("reverse_kl")
OWN = VANILLA._replace(loss=REVERSE, source=ROUNDS)


def test_what_all_have_in_common_is_left_out() -> None:
    methods = [OWN, OWN._replace(selector=TOPK, signal=Part("prompt_gap")), OWN._replace(selector=RANDOM)]
    assert methods[0].name == "vanilla-reverse_kl-rounds_problems_per_round_24_steps_per_round_4"
    assert list(short_names(methods).values()) == ["vanilla", "topk_20-prompt_gap", "random_20"]


def test_values_that_every_method_with_a_part_has_are_left_out_and_others_stay() -> None:
    other = OWN._replace(source=Part("rounds", (("problems_per_round", 60.0), ("steps_per_round", 4.0))))
    assert list(short_names([VANILLA, OWN]).values()) == ["vanilla", "vanilla-reverse_kl-rounds"]
    assert list(short_names([OWN, other]).values()) == [
        "vanilla-rounds_problems_per_round_24_steps_per_round_4",
        "vanilla-rounds_problems_per_round_60_steps_per_round_4",
    ]


def test_usual_names_stay_and_no_two_become_one() -> None:
    usual = [VANILLA, ORIGINAL, VANILLA._replace(selector=TOPK, signal=Part("kl")), VANILLA._replace(selector=RANDOM)]
    assert short_names(usual) == {one: one.name for one in usual}
    assert short_names([]) == {} and left_out(usual) == ""
    endless = [VANILLA, VANILLA._replace(loss=Part("a" * 99))]
    assert [len(name) for name in short_names(endless).values()] == [7, 60]
    twins = [VANILLA._replace(loss=Part("a" * 99 + end)) for end in "bc"]
    assert short_names(twins) == {one: one.name for one in twins}


def test_a_name_is_not_cut_to_one_that_means_something_else() -> None:
    hard = Part("cross_entropy")
    alone = VANILLA._replace(loss=hard), VANILLA._replace(loss=hard, selector=RANDOM)
    assert list(short_names(alone).values()) == ["teacher_free", "random_20-cross_entropy"]
    scored = [
        VANILLA._replace(selector=TOPK._replace(values=(("k_percent", k),)), signal=Part("kl")) for k in (5.0, 9.0)
    ]
    assert list(short_names(scored).values()) == [one.name for one in scored]
    assert short_names([OWN])[OWN].startswith("vanilla-reverse_kl-rounds_problems_per_round_24")


def test_what_is_left_out_is_said() -> None:
    said = left_out([OWN, OWN._replace(selector=RANDOM)])
    assert "All methods have loss reverse_kl, source rounds." in said


def test_bands_without_a_control_have_a_figure() -> None:
    bands = [
        ORIGINAL._replace(selector=Part("bucket", (("lower", 10.0 * n), ("upper", 10.0 * n + 10)))) for n in range(3)
    ]
    assert figures.bucket_curve(drawn_result(bands), short_names(bands)).axes


def drawn_result(methods: list[Method]) -> Result:
    table = {one: {seed: place + 0.1 * seed for seed in range(3)} for place, one in enumerate(methods)}
    means = {one: estimate(list(seeds.values())) for one, seeds in table.items()}
    compared = compare_methods(table, [(one, other) for one in methods[1:] for other in methods[:1]])
    return Result(KL, table, means, compared, {}, 2, {})


@pytest.mark.parametrize("count", [2, 12])
def test_long_names_leave_room_for_the_figure(count: int) -> None:
    letters = "a_signal_of_a_researchers_own_with_a_long_name"
    methods = [VANILLA, *(VANILLA._replace(selector=TOPK, signal=Part(f"{letters}_{n}")) for n in range(count))]
    result, short = drawn_result(methods), short_names(methods)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in (figures.bucket_curve(result, short), figures.differences(result, short)):
            figure.canvas.draw()
            for axes in figure.axes:
                box = axes.get_position()
                assert box.width > 0.2 and box.height * figure.get_figheight() > 0.2


def test_a_step_is_a_whole_number() -> None:
    steps = [0.0, 9.0, 19.0, 20.0]
    figure = figures.curves(
        [("step", {VANILLA: (steps, [0.5, 0.1, 0.06, 0.05])}, False)], "nats", short_names([VANILLA])
    )
    figure.canvas.draw()
    assert all(tick == round(tick) for tick in figure.axes[0].get_xticks())
