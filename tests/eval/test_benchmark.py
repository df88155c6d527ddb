"""The benchmark: what is asked, what is written down, what it is worth, and that nothing stops it for good."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch
from conftest import hf
from hypothesis import given, settings
from hypothesis import strategies as st

from ekd.dataset.arithmetic import Arithmetic
from ekd.eval.answers import Answer, AnswerFile, pieces, read_answers, repeats
from ekd.eval.benchmark import Benchmark
from ekd.eval.callback import BenchmarkCallback
from ekd.eval.compare import compare, locate
from ekd.eval.metrics import majority, markdown_table, metric_rows, rungs, summary
from ekd.models.load import load_tokenizer
from ekd.models.prompt import Prompt
from ekd.types import Failure, Text


def benchmark(**changes) -> Benchmark:
    values = {
        "dataset": Arithmetic(seed=0, train=8, val=4, test=6, kinds=None, levels=[1]),
        "prompt": Prompt(system="", instruction="", shots=0, thinking=None),
        "split": "test", "problems": None, "samples": 1, "max_new_tokens": 8, "temperature": 0.0, "top_p": 1.0,
        "batch_size": 4, "seed": 0,
    }  # fmt: skip
    return Benchmark(**(values | changes))


def answer(problem: str = "p", sample: int = 0, said: str = "1", right: bool = False, **changes) -> Answer:
    status = "correct" if right else "wrong" if said else "unparseable"
    values = dict(
        zip(Answer._fields, (problem, sample, status, said, "7", "stop", False, 10, 0.5, "?", said), strict=False)
    )
    return Answer(**(values | changes))


def same(a: Answer, b: Answer) -> bool:
    return float(a.extracted) == float(b.extracted)


def told(sheets: list[list[Answer]]) -> dict[str, float]:
    answers = [a for sheet in sheets for a in sheet]
    return summary(answers, asked=len(answers), same=same)


# what it is worth


def test_one_answer_a_problem_has_wilsons_interval_and_no_pass_at_k():
    result = told([[answer(f"p{i}", right=i < 8)] for i in range(10)])
    assert (result["accuracy"], result["problems"], result["answers"]) == (0.8, 10, 10)
    assert (result["accuracy_low"], result["accuracy_high"]) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert not {name for name in result if name.startswith(("pass", "majority"))}
    assert result["tokens_per_second"] == 20


def test_n_answers_give_the_mean_share_pass_at_k_and_the_vote():
    easy = [answer("easy", i, "7", right=i < 3) if i < 3 else answer("easy", i, "1") for i in range(4)]
    hard = [answer("hard", i, said, right=said == "7") for i, said in enumerate(["7", "2", "2.0", ""])]
    result = told([easy, hard])
    assert result["accuracy"] == result["pass@1"] == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert result["pass@2"] == pytest.approx((1 + 1 / 2) / 2) and result["pass@4"] == 1
    assert result["majority"] == 0.5, "7 wins the easy one; 2 and 2.0 are one answer and win the hard one"
    assert result["unparseable"] == 1 / 8
    view = dict(metric_rows(result))
    assert view["one problem is worth"] == "50.0 points" and "2 problems, 8 answers" in view["accuracy (avg@n)"]
    assert "| one problem is worth | 50.0 points |" in markdown_table("what", metric_rows(result))


def test_a_tied_vote_counts_by_halves_and_no_vote_is_no_answer():
    sheet = [answer(sample=i, said=s, right=s == "7") for i, s in enumerate(["7", "7", "3", "3", ""])]
    assert majority(sheet, same) == 0.5
    assert majority([answer(said=""), answer(sample=1, said="")], same) == 0
    assert rungs(16) == [1, 2, 4, 8, 16] and rungs(6) == [1, 2, 4, 6] and rungs(0) == []


def test_equal_answers_are_found_by_the_dataset_itself():
    a, b = answer(said="1/2", text=r"\boxed{1/2}"), answer(said="0.5", text=r"so \boxed{0.5}")
    assert benchmark()._same(a, b) and not benchmark()._same(a, answer(said="0.6", text=r"\boxed{0.6}"))


@pytest.mark.parametrize(
    ("text", "endless"),
    [
        ("so 2 + 2 = 4. " * 5, True), ("0" * 40, True), ("a" * 30 + "b", False), ("", False), ("one two three", False),
        ("x " + "y" * 45, True), ("Step. " * 3, False), ("".join(map(str, range(300))), False),
    ],
)  # fmt: skip
def test_what_repeats_itself_would_not_have_ended(text, endless):
    assert repeats(text) is endless


# what is asked


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"samples": 4}, "benchmark.samples=4 at temperature 0 are 4 equal answers: set benchmark.temperature=0.6"),
        ({"samples": 0}, "benchmark.samples is 1 or more, not 0"),
        ({"max_new_tokens": 0}, "benchmark.max_new_tokens is 1 or more, not 0"),
        ({"top_p": 0}, "0 < benchmark.top_p <= 1, not 0.0 and 0"),
    ],
)
def test_a_wrong_value_is_refused_with_the_way_out(changes, said):
    with pytest.raises(ValueError) as error:
        benchmark(**changes)
    assert said in str(error.value)


def test_more_problems_than_there_are_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"test split has 6 problems, not benchmark\.problems=7"):
        benchmark(problems=7).questions()


def test_every_sample_has_a_seed_of_its_own_that_no_setting_moves(tokenizer):
    few, many = (benchmark(samples=n, temperature=1.0) for n in (2, 3))
    seeds = {(r.problem_id, r.sample): r.seed for r in many.requests(tokenizer)}
    assert len(set(seeds.values())) == 18
    assert all(seeds[r.problem_id, r.sample] == r.seed for r in few.requests(tokenizer))


def test_the_identity_changes_with_whatever_changes_an_answer(tokenizer):
    dataset = Arithmetic(seed=1, train=8, val=4, test=6, kinds=None, levels=[1])
    prompt = Prompt(system="Hi", instruction="", shots=0, thinking=None)
    changes = [
        {"problems": 5}, {"max_new_tokens": 9}, {"temperature": 1.0}, {"split": "val"}, {"dataset": dataset},
        {"prompt": prompt}, {"seed": 1}, {"top_p": 0.9},
    ]  # fmt: skip
    names = [benchmark(**change).identity({"model": "a"}, tokenizer) for change in [{}, *changes]]
    names.append(benchmark().identity({"model": "b"}, tokenizer))
    assert len(set(names)) == len(names) and names[0] == benchmark(batch_size=1).identity({"model": "a"}, tokenizer)


# what is written down


def test_answers_hold_prompt_text_and_verdict_and_are_not_asked_twice(tokenizer, tiny, tmp_path):
    path = tmp_path / "answers.jsonl"
    outcome = benchmark().run(tokenizer, benchmark().by_model(lambda: tiny, tokenizer), path, "tiny")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(outcome.answers) == len(lines) == 6
    assert lines[0]["prompt"].startswith("<|im_start|>user") and lines[0]["status"] == "unparseable"
    assert all(a.seconds > 0 and a.tokens for a in outcome.answers)

    def refuse():
        raise AssertionError("nothing was to be solved")

    again = benchmark().run(tokenizer, benchmark().by_model(refuse, tokenizer), path, "tiny")
    assert again.answers == outcome.answers


def test_what_is_kept_of_each_token_joins_to_the_answer_and_is_the_models_own_entropy(tokenizer, tiny, tmp_path):
    path = tmp_path / "answers.jsonl"
    given = benchmark().run(tokenizer, benchmark().by_model(lambda: tiny, tokenizer), path, "tiny", quiet=True).answers
    for asked, answer in zip(benchmark().requests(tokenizer), given, strict=True):
        assert len(answer.entropy) == answer.tokens
        with torch.inference_mode():  # greedy, so the text can be read again
            log_p = tiny(torch.tensor([asked.prompt_ids])).logits[0, -1].log_softmax(-1)
        assert answer.entropy[0] == pytest.approx(-float((log_p.exp() * log_p).sum()), abs=1e-3)
    assert next(iter(read_answers(path).values())).entropy == given[0].entropy


@pytest.mark.real
@pytest.mark.parametrize("text", ["Two  words, 12,345 = 1.5e3", "größer: 東京 🙂🇯🇵 naïve", "\n\n  code\tx = {}\n"])
def test_pieces_of_a_real_tokenizer_join_to_its_text(text):
    tokenizer = load_tokenizer("smollm2")
    ids = [*tokenizer.encode(text), tokenizer.eos_token_id]
    found = pieces(tokenizer, ids)
    assert "".join(found) == tokenizer.decode(ids, skip_special_tokens=True) and len(found) == len(ids)
    for cut in range(1, len(ids)):
        assert "".join(pieces(tokenizer, ids[:cut])) == tokenizer.decode(ids[:cut], skip_special_tokens=True)


class Power(Exception):
    """Goes off."""


@settings(deadline=None, max_examples=8)
@given(stops=st.lists(st.integers(0, 17), max_size=4), cut=st.integers(0, 60))
def test_a_benchmark_stopped_anywhere_ends_as_one_that_was_not(tmp_path_factory, stops, cut):
    """Also in the middle of a batch, and in the middle of a line."""
    from ekd.models.load import load_model, load_tokenizer

    tokenizer, model = load_tokenizer("tiny"), load_model("tiny").eval()
    ours = benchmark(samples=3, temperature=1.0, batch_size=5)
    solve = ours.by_model(lambda: model, tokenizer)
    folder = tmp_path_factory.mktemp("benchmark")
    whole = ours.run(tokenizer, solve, folder / "whole.jsonl", "").answers

    def failing(after: int):
        def stopped(requests, done):
            for count, pair in enumerate(solve(requests, done)):
                if count == after:
                    raise Power
                yield pair

        return stopped

    path = folder / "stopped.jsonl"
    for after in stops:
        try:
            ours.run(tokenizer, failing(after), path, "")
        except Power:
            path.write_bytes(path.read_bytes()[: -cut or None])
    resumed = ours.run(tokenizer, solve, path, "").answers
    assert [a._replace(seconds=0) for a in resumed] == [a._replace(seconds=0) for a in whole]
    assert len(path.read_text().splitlines()) == len(whole) == 18


def test_a_half_written_line_is_cut_off_before_anything_is_appended(tmp_path):
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path) as file:
        file.add(answer("a"))
        file.add(answer("b"))
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with AnswerFile(path) as file:
            file.add(answer("a"))
            file.add(answer("b"))
        assert path.read_bytes() == content


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps(answer("a")._asdict()) + '\n{"problem_id": "b"}\n')
    with pytest.raises(ValueError, match=r"line 2 is not an answer; remove that line"):
        read_answers(path)


def test_a_request_that_failed_is_told_and_asked_again(tokenizer, tmp_path):
    """A teacher that refuses one problem the first time: the others are answered, and the next call asks for it."""
    asked: list[int] = []

    def flaky(requests, done):
        missing = [r for r in requests if r.key not in done]
        asked.append(len(missing))
        for i, request in enumerate(missing):
            lost = len(asked) == 1 and i == 2
            yield request, Failure(request.key, request.problem_id, "HTTP 500") if lost else Text([5], "length", 0.1)

    first = benchmark().run(tokenizer, flaky, tmp_path / "a.jsonl", "")
    assert len(first.answers) == 5 and first.failures[0].reason == "HTTP 500"
    result = benchmark().summary(first.answers)
    assert result["failed"] == 1 and "1 requests had no answer" in dict(metric_rows(result))["failed"]
    second = benchmark().run(tokenizer, flaky, tmp_path / "a.jsonl", "")
    assert len(second.answers) == 6 and not second.failures and asked == [6, 1]


def test_a_teacher_sits_the_same_benchmark_as_its_model(tokenizer, tmp_path):
    from ekd.models.load import load_model

    @dataclass(frozen=True)
    class Served:
        """All that is known of a teacher behind a wire: it traces."""

        mode: str = "score"
        temperature: float = 0.0
        top_p: float = 1.0
        max_new_tokens: int = 1

        def trace(self, requests):
            return hf(model="tiny:1", **vars(self)).trace(requests)

    ours = benchmark(samples=2, temperature=0.9, top_p=0.95)
    model = load_model("tiny:1")
    own = ours.run(tokenizer, ours.by_model(lambda: model, tokenizer), tmp_path / "a.jsonl", "").answers
    for name, teacher in ("here", hf(model="tiny:1", mode="score")), ("served", Served()):
        taught = ours.run(tokenizer, ours.by_teacher(teacher, tokenizer), tmp_path / f"{name}.jsonl", "").answers
        assert [a.text for a in own] == [a.text for a in taught]


def test_a_mixed_precision_is_that_of_autocast_and_names_other_answers(tokenizer, tiny, tmp_path):
    mixed, plain = benchmark(precision="bf16-mixed"), benchmark()
    found = mixed.run(tokenizer, mixed.by_model(lambda: tiny, tokenizer), tmp_path / "a.jsonl", "").answers
    with torch.autocast("cpu", torch.bfloat16):
        by_hand = plain.run(tokenizer, plain.by_model(lambda: tiny, tokenizer), tmp_path / "b.jsonl", "").answers
    exact = plain.run(tokenizer, plain.by_model(lambda: tiny, tokenizer), tmp_path / "c.jsonl", "").answers
    assert [a.entropy for a in found] == [a.entropy for a in by_hand] != [a.entropy for a in exact]
    assert mixed.identity({}, tokenizer) != plain.identity({}, tokenizer)
    with pytest.raises(ValueError, match=r"precision=bf16-mixed is that of a model which this process loads, and str"):
        mixed.by_teacher("a server", tokenizer)


def test_no_batch_is_begun_once_the_time_is_up(tokenizer, tiny, tmp_path):
    short = benchmark(batch_size=2)
    outcome = short.run(tokenizer, short.by_model(lambda: tiny, tokenizer, seconds=0), tmp_path / "a.jsonl", "")
    assert len(outcome.answers) in (0, 2)


def test_the_callback_refuses_the_split_that_judges():
    with pytest.raises(ValueError, match=r"what chooses a checkpoint must not be what judges it; use val"):
        BenchmarkCallback(benchmark=benchmark(split="test"), seconds=None, dirpath="x")
    with pytest.raises(ValueError, match=r"callback\.benchmark\.seconds is more than 0"):
        BenchmarkCallback(benchmark=benchmark(split="val"), seconds=0, dirpath="x")


# two benchmarks


def test_flipped_problems_are_listed_and_the_difference_is_paired():
    a = [answer(f"p{i}", right=i < 5) for i in range(20)]
    b = [answer(f"p{i}", right=i == 0 or i > 12) for i in range(20)]
    found = compare(a, b)
    assert (found.a, found.b, found.problems) == (5 / 20, 8 / 20, 20)
    assert found.change.value == pytest.approx(3 / 20) and found.change.test == "McNemar, exact"
    assert [f.problem_id for f in found.flips] == [f"p{i}" for i in (*range(13, 20), *range(1, 5))]


def test_benchmarks_without_a_common_problem_or_with_other_answers_are_not_compared(tmp_path):
    with pytest.raises(ValueError, match="no problem in common"):
        compare([answer("a")], [answer("b")])
    with pytest.raises(ValueError, match="different problems of the same name"):
        compare([answer("a")], [answer("a", reference="8")])
    with pytest.raises(ValueError, match=r"holds no answers.jsonl"):
        locate(tmp_path)
