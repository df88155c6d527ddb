"""The second study: what is published is what the kept cells say, and what chooses a learning rate chooses it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import study2  # noqa: E402 (a script of the checkout, no part of the package)
from study2_tables import OUTCOMES, in_all, over_problems, page, read_kept  # noqa: E402
from study_world import SPLITS, drawn  # noqa: E402

from ekd.files import write_json  # noqa: E402


def test_tables_and_figures_are_made_from_the_kept_cells_byte_for_byte():
    made = page()
    assert {file.name for file in made} >= {"study2_tables.md"}
    for file, content in made.items():
        assert file.read_bytes() == content, f"python scripts/study2.py page makes another {file.name}"


def test_a_part_is_whole_and_every_method_has_the_seeds_of_the_plan():
    for part, cells in read_kept().items():
        seeds: dict[str, set[int]] = {}
        for cell, line in cells:
            seeds.setdefault(cell.method.name, set()).add(cell.seed)
            solved = line["figures"]["benchmark"]["student after"]["accuracy"]
            asked = 200 if part == "smollm2" else 400
            assert len(line["right"]) == asked and line["right"].count("1") / asked == pytest.approx(solved)
        assert all(found == set(range(8)) for found in seeds.values()), part


def test_a_part_that_is_kept_takes_the_place_of_what_was_and_never_with_fewer_cells():
    one, other = ({"part": part, "mark": 0} for part in ("given_forward", "bands"))
    again = {"part": "given_forward", "mark": 1}
    assert study2.merged([other, one], [again]) == [again, other]
    with pytest.raises(SystemExit, match="given_forward has 1 cells and 2 are kept"):
        study2.merged([one, one], [again])
    with pytest.raises(SystemExit, match="elsewhere is no part of the study"):
        study2.merged([], [{"part": "elsewhere"}])


def test_rounds_are_kept_as_means_of_their_last_third(tmp_path):
    rounds = [{name: float(n) for name in OUTCOMES} for n in range(9)]
    (tmp_path / "rounds.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rounds))
    assert study2._rounds(tmp_path) == {"rounds": dict.fromkeys(OUTCOMES, 7.0)}
    assert study2._rounds(tmp_path / "elsewhere") == {}


def test_what_all_names_end_in_is_said_once():
    assert in_all(["vanilla-reverse_kl-rounds", "topk_20-kl-reverse_kl-rounds"]) == "-reverse_kl-rounds"
    assert in_all(["vanilla", "topk_20-kl"]) == in_all(["topk_5-kl", "topk_20-akl"]) == ""


def test_the_best_rate_is_the_most_accurate_and_of_equal_ones_the_closest(tmp_path):
    seen = {0.1: [(0.5, 1.0), (0.7, 1.0)], 0.2: [(0.6, 0.5), (0.6, 0.5)], 0.3: [(0.9, 0.1), (0.2, 0.1)]}
    for rate, cells in seen.items():
        for seed, (accuracy, kl) in enumerate(cells):
            folder = tmp_path / "part" / "topk_20" / f"lr_{rate}" / f"seed_{seed}"
            folder.mkdir(parents=True)
            figures = {"benchmark": {"student after": {"accuracy": accuracy}}, "after": {"val/kl": kl}}
            write_json(
                folder / "metrics.json",
                {"figures": figures, "config": {"student": {"optimizer": {"lr": rate}}}},
            )
    assert study2.choose(tmp_path) == {"part": {"topk_20": 0.2}}


def test_an_interval_for_other_problems_is_wider_and_of_no_difference_nothing():
    rng = np.random.default_rng(0)
    change = rng.integers(-1, 2, (8, 400)).astype(float)
    seeds_alone = 2.3646 * np.sqrt(change.mean(1).var(ddof=1) / 8)
    assert over_problems(change) > seeds_alone > 0
    assert over_problems(np.full((8, 400), 0.25)) == 0


def test_splits_of_the_world_share_no_question():
    asked = {split: {next(stream)[0] for _ in range(500)} for split in SPLITS for stream in [drawn(split, "a test")]}
    assert not asked["train"] & asked["val"] and not (asked["train"] | asked["val"]) & asked["test"]


def test_a_solution_of_the_world_ends_in_its_answer_and_every_line_is_right():
    stream = drawn("train", "a test")
    for _ in range(300):
        question, worked, answer = next(stream)
        assert worked.endswith(f"\\boxed{{{answer}}}.")
        now = int(question.split()[2].strip("."))
        for part in question.split(". ")[1:]:
            words = part.rstrip(".").split()
            number = next((int(word) for word in words if word.isdigit()), 2)
            if words[0] in ("Add", "Put"):
                now += number
            elif words[0] in ("Take", "Subtract"):
                now -= number
            elif words[0] in ("Multiply", "Double"):
                now *= number
        assert str(now) == answer
