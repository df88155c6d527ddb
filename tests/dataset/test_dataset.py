"""Every dataset poses the same problems each time, keeps its splits apart, and says what is wrong with bad input."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import combinations
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from ekd.dataset.aime import Aime
from ekd.dataset.arithmetic import KINDS, Arithmetic
from ekd.dataset.corpus import Corpus
from ekd.dataset.gsm8k import Gsm8k
from ekd.dataset.hub import Hub
from ekd.dataset.jsonl import Jsonl
from ekd.dataset.math500 import Math500
from ekd.dataset.mixed import Mixed
from ekd.dataset.splits import SPLITS, NoSplit, carve, percentile, question_key
from ekd.types import Dataset, Problem

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
# One that only changes the values of another (arithmetic_small) has no class of its own.
NAMES = sorted(f.stem for f in (ROOT / "conf" / "dataset").glob("*.yaml") if "\n_target_:" in f.read_text())
REQUIRED = {
    "hub": ["dataset.name=owner/name"],
    "jsonl": ["dataset.test=problems.jsonl"],
    "corpus": ["dataset.train=[a.txt,b.jsonl]"],
}

arithmetic = partial(Arithmetic, seed=0, train=300, val=60, test=90, kinds=None, levels=[1, 2, 3])
COLUMNS = {name: name for name in ("question", "answer", "solution", "id")}
jsonl = partial(Jsonl, train=None, val=None, test=None, val_percent=0, **COLUMNS)
hub = partial(
    Hub,
    config=None,
    revision=None,
    train="train",
    val=None,
    test="test",
    val_percent=0,
    prompt_column="question",
    answer_column="answer",
    solution_column=None,
)
STREAM = {"hub": None, "hub_config": None, "hub_split": "train", "documents": 100}
corpus = partial(Corpus, train=None, val=None, test=None, val_percent=0, column="text", separator="\n\n", **STREAM)


def write(path: Path, *records: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def posed(n: int, start: int = 0) -> list[dict[str, str]]:
    return [{"question": f"What is {i} + 1?", "answer": f"{i + 1}"} for i in range(start, start + n)]


@pytest.fixture
def gsm8k(tmp_path: Path) -> Gsm8k:
    for name, start, n in (("train", 0, 200), ("test", 500, 5)):
        records = [
            {
                "question": f"What is {i} + 1000?",
                "answer": f"It is {i}+1000=<<{i}+1000={i + 1000}>>{i + 1000}.\n#### {i + 1000:,}",
            }
            for i in range(start, start + n)
        ]
        write(tmp_path / "gsm8k" / f"{name}.jsonl", *records)
    return Gsm8k(path=str(tmp_path / "gsm8k"), hub="", config="main", val_percent=10)


def assert_kept_apart(dataset: Dataset, splits: tuple[str, ...] = SPLITS) -> None:
    made = {split: dataset.problems(split) for split in splits}
    for split, problems in made.items():
        assert problems == dataset.problems(split), "not deterministic"
        assert len({problem.id for problem in problems}) == len(problems) > 0
    for a, b in combinations(splits, 2):
        assert not {question_key(p) for p in made[a]} & {question_key(p) for p in made[b]}
        assert not {p.id for p in made[a]} & {p.id for p in made[b]}


def assert_gradeable(dataset: Dataset, problems: list[Problem]) -> None:
    """Each worked solution is right for its own problem, and for no other that has another answer."""
    for problem, other in zip(problems, problems[1:] + problems[:1], strict=True):
        assert dataset.grade(problem, problem.solution).status == "correct"
        assert problem.solution.endswith(f"\\boxed{{{problem.answer}}}.")
        right = Fraction(problem.answer) == Fraction(other.answer)
        assert dataset.grade(problem, other.solution).status == ("correct" if right else "wrong")


# The yamls


@pytest.mark.parametrize("name", NAMES)
def test_every_yaml_builds_what_it_is_named_for(name: str) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(overrides=[f"+dataset={name}", *REQUIRED.get(name, [])])
    dataset = instantiate(config.dataset, _convert_="all")
    assert type(dataset).__module__ == f"ekd.dataset.{name}"
    lines = (ROOT / "conf" / "dataset" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert all(
        "#" in line for line in lines if re.match(r"\w+:", line) and not line.startswith(("_target_", "defaults"))
    )


def test_a_part_can_be_added_to_the_mixture_on_the_command_line() -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(overrides=["+dataset=mixed", "+dataset@dataset.parts.aime=aime", "~dataset.parts.gsm8k"])
    assert list(instantiate(config.dataset, _convert_="all").parts) == ["arithmetic", "aime"]


def test_importing_the_datasets_loads_nothing_heavy() -> None:
    names = [path.stem for path in (ROOT / "ekd" / "dataset").glob("[a-z]*.py")]
    code = f"import sys; {'; '.join(f'import ekd.dataset.{name}' for name in names)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert "ekd.dataset.mixed" in loaded.split()
    assert not {"datasets", "sympy", "math_verify", "torch", "numpy"} & set(loaded.split())


# Arithmetic


def test_arithmetic_keeps_its_splits_apart_and_is_gradeable() -> None:
    dataset = arithmetic()
    assert_kept_apart(dataset)
    for split, count in (("train", 300), ("val", 60), ("test", 90)):
        assert len(dataset.problems(split)) == count
        assert_gradeable(dataset, dataset.problems(split))


def test_arithmetic_never_poses_a_sum_in_two_splits_whatever_the_seed() -> None:
    def sums(dataset: Arithmetic, split: str) -> set[str]:
        found = (re.sub(r".*-", "", p.id) + " ".join(re.findall(r"\d+", p.question)) for p in dataset.problems(split))
        return set(found)

    for kind in KINDS:
        one, other = (arithmetic(seed=seed, train=60, val=20, test=20, kinds=[kind], levels=[1]) for seed in (1, 2))
        for a, b in combinations(SPLITS, 2):
            assert not sums(one, a) & sums(other, b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [1, 2, 3])
def test_every_worked_step_is_true_and_leads_to_the_answer(kind: str, level: int) -> None:
    dataset = arithmetic(train=30, kinds=[kind], levels=[level])
    for problem in dataset.problems("train"):
        steps = re.findall(r"(\d+(?: [-+*/] \d+)+) = (\d+)", problem.solution)
        assert steps
        assert steps[-1][1] == problem.answer
        for left, right in steps:
            assert value(left) == int(right)
        assert int(problem.answer) > 0
        assert not re.search(r"\b1 [a-z]+s\b|[{}]", problem.question)


def value(text: str) -> Fraction:
    """Steps hold only one kind of operation, or a product before a quotient: left to right is right."""
    first, *rest = text.split()
    total = Fraction(first)
    for sign, number in zip(rest[::2], map(int, rest[1::2]), strict=True):
        total = {"+": total + number, "-": total - number, "*": total * number, "/": total / number}[sign]
    return total


def test_arithmetic_kinds_take_turns_and_a_larger_split_begins_with_the_smaller() -> None:
    kinds = [problem.id.rpartition("-")[2] for problem in arithmetic().problems("test")]
    assert kinds == [*KINDS] * 6
    assert arithmetic(test=500).problems("test")[:90] == arithmetic().problems("test")
    assert arithmetic(seed=1).problems("test") != arithmetic().problems("test")


def test_arithmetic_refuses_what_it_cannot_make() -> None:
    with pytest.raises(ValueError, match=r"only \d+ different test problems .* not 100000: ask for fewer"):
        arithmetic(test=100_000, kinds=["half"], levels=[1]).problems("test")
    with pytest.raises(ValueError, match=r"kinds is \['sums'\]; .*addition"):
        arithmetic(kinds=["sums"])
    with pytest.raises(ValueError, match=r"levels is \[4\]"):
        arithmetic(levels=[4])
    with pytest.raises(ValueError, match="train is -1"):
        arithmetic(train=-1)
    with pytest.raises(NoSplit, match="no split 'dev'; it has: train, val, test"):
        arithmetic().problems("dev")


# JSON Lines


def test_jsonl(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", {"id": "one", "question": " What? ", "answer": 5, "solution": "So \\boxed{5}."})
    b = write(tmp_path / "b.jsonl", *posed(3))
    dataset = jsonl(train=[a, b], test=write(tmp_path / "c.jsonl", *posed(3, 10)))
    assert dataset.problems("train")[0] == Problem("one", "What?", "5", "So \\boxed{5}.")
    assert [p.id for p in dataset.problems("train")] == ["one", "b.jsonl:1", "b.jsonl:2", "b.jsonl:3"]
    assert_kept_apart(dataset, ("train", "test"))
    with pytest.raises(NoSplit, match="it has: train, test"):
        dataset.problems("val")
    assert_kept_apart(jsonl(train=write(tmp_path / "d.jsonl", *posed(50, 100)), test=dataset.test, val_percent=20))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"question": "q", "answer": "1"', "not JSON"),
        ('["q", "1"]', "must be an object"),
        ('{"question": "q"}', '"answer" is missing (it has: question)'),
        ('{"question": "", "answer": "1"}', '"question" is ""; it must be text that is not empty'),
        ('{"question": "q", "answer": ["1"]}', '"answer" is ["1"]; it must be text'),
        ('{"question": "q", "answer": null}', '"answer" is null'),
        ('{"question": "q", "answer": true}', '"answer" is true'),
        ('{"question": "q", "answer": "\udcff"}', "not UTF-8"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "bad.jsonl"
    good = json.dumps(posed(1)[0])
    path.write_text(f"{good}\n\n{line}\n{line}\n", encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError) as caught:
        jsonl(test=str(path)).problems("test")
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert complaint in str(caught.value)
    assert "Also bad: line 4." in str(caught.value)


def test_jsonl_refuses_repeats_and_missing_files(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", {"id": "a", **posed(1)[0]})
    same_id = write(tmp_path / "test.jsonl", {"id": "a", **posed(1, 5)[0]})
    with pytest.raises(ValueError, match="the id 'a' occurs twice"):
        jsonl(train=train, test=same_id).problems("train")
    same_question = write(tmp_path / "test.jsonl", {"id": "b", "question": "what is  0 + 1?", "answer": "1"})
    with pytest.raises(ValueError, match=r"a \(train\) and b \(test\) are the same question"):
        jsonl(train=train, test=same_question).problems("train")
    with pytest.raises(ValueError, match=r"no\.jsonl cannot be read"):
        jsonl(train=str(tmp_path / "no.jsonl")).problems("train")
    with pytest.raises(ValueError, match="given no file"):
        jsonl()


# GSM8K, AIME, MATH-500


def test_gsm8k_solutions_and_splits(gsm8k: Gsm8k) -> None:
    assert_kept_apart(gsm8k)
    assert len(gsm8k.problems("train")) + len(gsm8k.problems("val")) == 200
    assert gsm8k.problems("test")[0] == Problem(
        "gsm8k-test-1", "What is 500 + 1000?", "1500", "It is 500+1000=1500.\nThe answer is \\boxed{1500}."
    )
    assert_gradeable(gsm8k, gsm8k.problems("val"))


def test_gsm8k_refuses_a_solution_without_its_mark(tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl", {"question": "q", "answer": "It is 5."})
    with pytest.raises(ValueError, match=r'test.jsonl, line 1: "answer" does not end in "#### "'):
        Gsm8k(path=str(tmp_path), hub="", config="", val_percent=5).problems("test")


def test_aime_and_math500_have_only_a_test_split(tmp_path: Path) -> None:
    write(tmp_path / "aime24.jsonl", *({"id": f"I-{i}", **p} for i, p in enumerate(posed(3))))
    write(tmp_path / "aime25.jsonl", *({"id": f"II-{i}", **p} for i, p in enumerate(posed(2, 7))))
    aime = partial(Aime, path=str(tmp_path), hub_2024="", hub_2025="")
    assert [p.id for p in aime(years=[2025]).problems("test")] == ["II-0", "II-1"]
    assert len(aime(years=[2024, 2025]).problems("test")) == 5
    with pytest.raises(ValueError, match=r"years is \[2023\]"):
        aime(years=[2023])
    write(tmp_path / "test.jsonl", {"id": "m", "question": "q", "answer": "\\frac{1}{2}"})
    math = Math500(path=str(tmp_path), hub="")
    assert math.grade(math.problems("test")[0], "\\boxed{0.5}").status == "correct"
    for dataset in (aime(years=[2024]), math):
        with pytest.raises(NoSplit, match="it has: test"):
            dataset.problems("train")


# The hub, from folders


def test_hub_reads_a_folder_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"extra": {"ask": p["question"]}, "text": f"So \\boxed{{{p['answer']}}}."} for p in posed(40)]
    write(tmp_path / "mine" / "train.jsonl", *rows[:30], rows[35])
    write(tmp_path / "mine" / "test.jsonl", *rows[30:])
    dataset = hub(
        name=str(tmp_path / "mine"),
        val_percent=30,
        prompt_column="extra.ask",
        answer_column=None,
        solution_column="text",
    )
    assert_kept_apart(dataset)  # and so the row that is in both files is only in test
    assert_gradeable(dataset, dataset.problems("test"))
    assert len(dataset.problems("train")) + len(dataset.problems("val")) == 30
    with pytest.raises(ValueError, match=r'row test-1: "question" is missing \(it has: extra, text\)'):
        replace(dataset, prompt_column="question").problems("test")
    with pytest.raises(ValueError, match=r"split 'benchmark' of .* could not be loaded"):
        replace(dataset, test="benchmark").problems("test")


def test_hub_reads_what_datasets_saved(tmp_path: Path) -> None:
    from datasets import Dataset as Table
    from datasets import DatasetDict

    tables = {"train": Table.from_list(posed(5)), "test": Table.from_list(posed(5, 10))}
    DatasetDict(tables).save_to_disk(tmp_path / "saved")
    dataset = hub(name=str(tmp_path / "saved"))
    assert_kept_apart(dataset, ("train", "test"))
    assert dataset.problems("test")[0] == Problem("saved-test-1", "What is 10 + 1?", "11")


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub\nand a traceback")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(
        ValueError, match=r"split 'test' of openai/gsm8k could not be loaded \(Couldn't reach .*local path$"
    ):
        Gsm8k(path=None, hub="openai/gsm8k", config="main", val_percent=5).problems("test")


# Mixtures


def test_mixed_is_graded_by_whoever_posed(gsm8k: Gsm8k, tmp_path: Path) -> None:
    write(tmp_path / "aime24.jsonl", {"id": "I-1", "question": "q", "answer": "204"})
    aime = Aime(years=[2024], path=str(tmp_path), hub_2024="", hub_2025="")
    dataset = Mixed(parts={"sums": arithmetic(), "gsm8k": gsm8k, "aime": aime}, weights=None)
    assert_kept_apart(dataset)
    test = dataset.problems("test")
    assert len(test) == 90 + 5 + 1
    assert {p.id.partition("/")[0] for p in test} == {"sums", "gsm8k", "aime"}
    assert all(dataset.grade(p, f"\\boxed{{{p.answer}}}").status == "correct" for p in test)
    assert sum(p.id.startswith("gsm8k") for p in test[:48]) in (2, 3)  # any beginning has the mixture of the whole


def test_mixed_weights_and_refusals(gsm8k: Gsm8k) -> None:
    parts: dict[str, Dataset] = {"sums": arithmetic(), "gsm8k": gsm8k}
    train = Mixed(parts=parts, weights={"sums": 3, "gsm8k": 1}).problems("train")
    assert sum(p.id.startswith("sums") for p in train) == 300
    assert sum(p.id.startswith("gsm8k") for p in train) == 100
    with pytest.raises(ValueError, match=r"weights is .* a positive number for each of sums, gsm8k"):
        Mixed(parts=parts, weights={"sums": 1})
    with pytest.raises(NoSplit, match=r"no part .* has a split 'dev'"):
        Mixed(parts=parts, weights=None).problems("dev")
    broken = replace(gsm8k, path="nowhere")
    with pytest.raises(ValueError, match="cannot be read"):
        Mixed(parts={"sums": arithmetic(), "gsm8k": broken}, weights=None).problems("train")


def test_mixed_never_trains_on_what_another_part_tests(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = jsonl(train=write(tmp_path / "a.jsonl", *posed(5)))
    other = jsonl(test=write(tmp_path / "b.jsonl", *posed(5, 3)))
    dataset = Mixed(parts={"one": one, "other": other}, weights=None)
    assert_kept_apart(dataset, ("train", "test"))
    assert len(dataset.problems("train")) == 3
    assert "2 problems were left out" in caplog.text


# Plain text


def test_corpus(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("First text.\n\n" + "word " * 500 + "\n\n\n\nLast.", encoding="utf-8")
    lines = write(tmp_path / "b.jsonl", {"text": "A held-out document."}, {"text": "Last."})
    dataset = corpus(train=str(tmp_path / "a.txt"), test=lines)
    assert_kept_apart(dataset, ("train", "test"))
    train = dataset.problems("train")
    assert [p.id for p in train] == ["a.txt:1", "a.txt:2"]  # "Last." is held out
    assert all(p.question == p.answer == "" for p in train)
    assert train[1].solution == ("word " * 500).strip()
    assert dataset.grade(train[0], "\\boxed{5}").status == "unparseable"


# Splits


def test_percentiles_are_even_and_carving_is_exact() -> None:
    values = [percentile(str(i)) for i in range(2000)]
    assert all(0 <= v < 100 for v in values)
    assert all(300 < sum(low <= v < low + 20 for v in values) < 500 for low in range(0, 100, 20))
    problems = [Problem(str(i), f"q{i}", "1") for i in range(500)]
    train, val = carve(problems, "train", 10), carve(problems, "val", 10)
    assert sorted(train + val) == sorted(problems)
    assert 25 < len(val) < 80


@pytest.mark.parametrize("make", [jsonl, hub, corpus])
def test_a_share_that_leaves_nothing_to_train_on_is_refused(make: Callable[..., Dataset]) -> None:
    with pytest.raises(ValueError, match="val_percent is 100"):
        make(**({"name": "n"} if make is hub else {"train": "t"}), val_percent=100)


# The real ones, where they are


def test_real_benchmarks() -> None:
    if not SHARED.exists():
        pytest.skip(f"{SHARED} is not here")
    gsm8k = Gsm8k(path=str(SHARED / "gsm8k"), hub="", config="", val_percent=5)
    assert_kept_apart(gsm8k)
    assert [len(gsm8k.problems(split)) for split in SPLITS] == [7120, 353, 1319]
    for split in SPLITS:
        assert_gradeable(gsm8k, gsm8k.problems(split))
        assert not any("<<" in p.solution or "####" in p.solution or "," in p.answer for p in gsm8k.problems(split))
    assert len(Aime(years=[2024, 2025], path=str(SHARED / "aime"), hub_2024="", hub_2025="").problems("test")) == 60
    assert len(Math500(path=str(SHARED / "math500"), hub="").problems("test")) == 500


def test_a_file_that_is_not_there_is_named_whichever_split_is_asked():
    with pytest.raises(ValueError, match=r"nowhere\.jsonl cannot be read"):
        jsonl(train="nowhere.jsonl").problems("test")
