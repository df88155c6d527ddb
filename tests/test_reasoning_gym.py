"""dataset=reasoning_gym: splits apart, graded by the task itself, wrong settings in a sentence."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from ekd.dataset.reasoning_gym import ReasoningGym, _generator
from ekd.dataset.splits import question_key


def gym(**changes) -> ReasoningGym:
    values = {"tasks": ["sums", "signs"], "seed": 0, "train": 30, "val": 6, "test": 9, "settings": {}}
    return ReasoningGym(**(values | changes))


class Sums:
    """A task as the package makes them: entries by place, and a grader that takes a number in words, too."""

    def __init__(self, seed: int, size: int, most: int = 1000) -> None:
        assert most > 0, "most must be positive"
        self.seed, self.most = seed, most

    def __getitem__(self, place: int) -> dict:
        a, b = (7 * place + self.seed) % self.most, (place * place) % self.most
        return {"question": f"What is {a} + {b}?", "answer": str(a + b), "metadata": {"sum": a + b}}

    def score_answer(self, answer: str, entry: dict) -> float:
        return 1.0 if answer.strip(" .") in (entry["answer"], f"{entry['answer']}.0") else 0.01


class Signs(Sums):
    def __getitem__(self, place: int) -> dict:
        return {"question": f"Is {place} even?", "answer": "yes" if place % 2 == 0 else "no", "metadata": {}}


@pytest.fixture(autouse=True)
def package(monkeypatch):
    """Two tasks in the place of the package's hundred, called as it is called."""
    tasks = {"sums": Sums, "signs": Signs}
    fake = SimpleNamespace(
        factory=SimpleNamespace(DATASETS=tasks), create_dataset=lambda name, **settings: tasks[name](**settings)
    )
    monkeypatch.setitem(sys.modules, "reasoning_gym", fake)
    _generator.cache_clear()
    yield
    _generator.cache_clear()


def test_splits_share_no_question_whatever_the_seed_and_a_larger_one_begins_with_the_smaller():
    asked = [{question_key(p) for p in gym(seed=n).problems(s)} for s in ("train", "val", "test") for n in (0, 1)]
    assert not (asked[0] | asked[1]) & (asked[2] | asked[3] | asked[4] | asked[5])
    assert not (asked[2] | asked[3]) & (asked[4] | asked[5])
    made = gym(train=60).problems("train")
    assert made[:30] == gym().problems("train") and len({p.question for p in made}) == 60
    assert [p.id.split("-")[0] for p in made[:4]] == ["sums", "signs", "sums", "signs"]


def test_an_answer_is_graded_by_the_task_that_posed_it():
    problem = gym(settings={"sums": {"most": 50}}, tasks=["sums"]).problems("test")[0]
    graded = gym(settings={"sums": {"most": 50}}, tasks=["sums"])
    assert graded.grade(problem, f"So \\boxed{{{problem.answer}.0}}").status == "correct"
    assert graded.grade(problem, "So \\boxed{-5}") == ("wrong", "-5")
    assert graded.grade(problem, "") == ("unparseable", "")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tasks": []}, "name at least one task"),
        ({"tasks": ["sums", "sums"]}, "each once"),
        ({"settings": {"other": {}}}, "which dataset.tasks does not name"),
        ({"val": -1}, "val is -1"),
        ({"tasks": ["nothing"]}, "has no task 'nothing'; it has: signs, sums"),
        ({"settings": {"sums": {"wide": 3}}}, "refuses dataset.settings.sums"),
        ({"settings": {"sums": {"most": 0}}}, "most must be positive"),
        ({"tasks": ["sums"], "settings": {"sums": {"most": 1}}}, "only 1 different train problems of sums|only 0"),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(changes, why):
    with pytest.raises(ValueError, match=why):
        gym(**changes).problems("train")


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ValueError, match=r"pip install 'ekd\[reasoning\]'"):
        gym().problems("train")


def test_the_real_package_poses_and_grades(monkeypatch):
    monkeypatch.delitem(sys.modules, "reasoning_gym")
    pytest.importorskip("reasoning_gym")
    real = gym(tasks=["chain_sum", "basic_arithmetic"], settings={"chain_sum": {"max_terms": 3}})
    problems = real.problems("test")
    assert len(problems) == 9
    for problem in problems:
        assert real.grade(problem, f"The answer is \\boxed{{{problem.answer}}}.").status == "correct"
        assert real.grade(problem, "The answer is \\boxed{123456789}.").status == "wrong"
