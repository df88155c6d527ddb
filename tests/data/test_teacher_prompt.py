"""The teacher reads one thing, the student another; who wrote the text; the verdict; and a second reading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import collector, hf
from hydra.utils import instantiate

from ekd.data.policy import Sampling, StudentPolicy
from ekd.data.trace_filter import CorrectSamples, RandomSamples
from ekd.dataset.arithmetic import Arithmetic
from ekd.models.load import load_model
from ekd.models.teacher_prompt import PLAIN, TeacherPrompt
from ekd.signal.prompt_gap import PromptGap
from ekd.types import Problem, Rows

CONF = Path(__file__).parents[2] / "conf"


def other(question: str = PLAIN, **changes) -> TeacherPrompt:
    return TeacherPrompt(**({"question": question, "system": None, "instruction": None, "shots": None} | changes))


def collected(count: int = 4, **changes):
    made = collector(**changes)
    keys = made.collect("train", count).keys
    return made, [made.open()[key] for key in keys]


def text(made, ids) -> str:
    return made.student_tokenizer.decode(ids)


def test_the_teacher_reads_the_solution_and_the_student_does_not():
    made, found = collected(teacher=hf(mode="score"), teacher_prompt=other("{{ question }} It is {{ answer }}."))
    for problem, trace in zip(made.dataset.problems("train"), found, strict=False):
        read = text(made, trace.teacher_prompt_ids)
        assert f"{problem.question} It is {problem.answer}." in read
        assert text(made, trace.prompt_ids) == read.replace(f" It is {problem.answer}.", "")
        ids = torch.tensor([[*trace.teacher_prompt_ids, *trace.response_ids]])
        with torch.no_grad():
            dense = load_model("tiny:1").eval()(ids).logits[0, len(trace.teacher_prompt_ids) - 1 : -1].log_softmax(-1)
        own = dense.gather(1, torch.from_numpy(trace.response_ids).long()[:, None])[:, 0]
        first = np.cumsum(trace.counts) - trace.counts
        np.testing.assert_allclose(trace.logprobs[first], own, atol=2e-2)  # as they are stored


@pytest.mark.parametrize("mode", ["generate", "score"])
def test_an_addition_that_adds_nothing_gives_the_very_traces_of_same(mode):
    _, plain = collected(teacher=hf(mode=mode))
    made, same = collected(teacher=hf(mode=mode), teacher_prompt=other())
    assert [t.key for t in same] == [t.key for t in plain] and "teacher_prompt" not in made.origin()
    _, empty = collected(teacher=hf(mode=mode), teacher_prompt=other("{{ question }}{% if false %}no{% endif %}"))
    for one, two in zip(plain, empty, strict=True):
        np.testing.assert_array_equal(one.response_ids, two.response_ids)
        np.testing.assert_array_equal(one.logprobs, two.logprobs)


def test_another_prompt_makes_other_traces_under_other_keys_in_another_store():
    plain, few = collector(), collector(teacher_prompt=other(shots=1))
    assert plain.open().path != few.open().path
    assert not {r.key for r in plain.requests("train", 4)} & {r.key for r in few.requests("train", 4)}
    assert "teacher_prompt" in few.open().origin


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ("{{ question", "is no Jinja template"),
        ("{{ anser }}", "'anser' is undefined for problem .* which has id, question, answer, solution"),
        ("{{ question.__class__.__mro__ }}", "cannot be filled in|is undefined"),
    ],
)
def test_a_template_that_cannot_be_filled_in_is_named(question, why):
    with pytest.raises(ValueError, match=why):
        collector(teacher_prompt=other(question)).requests("train", 1)


def test_a_problem_without_a_solution_cannot_show_one():
    problem = Problem("p", "How many?", "3")
    made = collector()
    with pytest.raises(ValueError, match=r"'solution' is undefined for problem p, which has id, question, answer"):
        other("{{ solution }}").ids(made.student_tokenizer, made.prompt, problem, [])
    with pytest.raises(ValueError, match=r"is plain text, .* set teacher_prompt=same"):
        other("{{ solution }}").ids(made.student_tokenizer, made.prompt, Problem("t", "", "", "text"), [])


@pytest.mark.parametrize("file", sorted((CONF / "teacher_prompt").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_preset_is_read_and_says_what_it_adds(file):
    made = collector()
    problem = made.dataset.problems("train")[0]
    values = yaml.safe_load(file.read_text())
    prompt = instantiate(values | {"question": "Hint: {{ question }}"} if file.stem == "text" else values)
    ids = prompt.ids(made.student_tokenizer, made.prompt, problem, made.dataset.problems("train")[1:4])
    words, plain = text(made, ids), text(made, made.prompt.ids(made.student_tokenizer, problem, []))
    assert (words == plain) == (file.stem == "same")
    assert (problem.solution in words) == (file.stem == "with_solution")


def test_verdicts_are_given_when_traces_are_made():
    _, found = collected(teacher=hf(mode="score"))
    assert {t.verdict for t in found} == {"correct"} and {t.policy for t in found} == {"dataset"}
    _, written = collected()
    assert {t.verdict for t in written} <= {"wrong", "unparseable"} and {t.policy for t in written} == {"teacher"}


def test_a_student_writes_and_the_teacher_reads_what_it_wrote():
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=10, batch_size=3)
    words = {"layers": "all", "dtype": "float32", "attention": "sdpa", "quantize": None, "device": "cpu"}
    policy = StudentPolicy(model="tiny", trust_remote_code=False, sampling=sampling, **words)
    made, found = collected(policy=policy, samples=2)
    assert made.teacher.mode == "score" and {t.policy for t in found} == {"student"} and len(found) == 8
    asked = [
        r._replace(response_ids=t.response_ids.tolist()) for r, t in zip(made.requests("train", 4), found, strict=True)
    ]
    scored = {t.key: t for t in hf(mode="score").trace(asked)}
    alone = {r.key: policy.write([r])[0].ids for r in made.requests("train", 4)}  # the same text in no company at all
    for trace in found:
        np.testing.assert_allclose(scored[trace.key].logprobs, trace.logprobs, atol=2e-2)
        assert alone[trace.key] == trace.response_ids.tolist()
    assert made.collect("train", 4).made == 0
    assert not list((made.open().path / "texts").glob("*"))


def test_texts_that_were_written_are_not_written_again_when_the_teacher_dies(monkeypatch):
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=6, batch_size=2)
    words = {"layers": "all", "dtype": "float32", "attention": "sdpa", "quantize": None, "device": "cpu"}
    policy = StudentPolicy(model="tiny", trust_remote_code=False, sampling=sampling, **words)
    written = []
    monkeypatch.setattr(Sampling, "write", lambda *a, plain=Sampling.write: written.append(len(a[3])) or plain(*a))

    class Dies(type(hf())):
        def trace(self, requests):
            raise RuntimeError("out of memory")

    dies = Dies(**{k: v for k, v in vars(hf(mode="score")).items() if k not in ("exact", "loaded")})
    with pytest.raises(RuntimeError):
        collector(policy=policy, teacher=dies).collect("train", 4)
    assert written == [2, 2]
    assert collector(policy=policy, teacher=hf(mode="score")).collect("train", 4).made == 4
    assert written == [2, 2]


@pytest.mark.parametrize("mode", ["generate", "score"])
def test_a_contrast_is_ln_p_of_each_token_under_the_second_prompt(mode):
    made, found = collected(teacher=hf(mode=mode), contrast=other("{{ question }} It is {{ answer }}."))
    for trace, request in zip(found, made.requests("train", 4), strict=True):
        ids = torch.tensor([[*request.contrast_prompt_ids, *trace.response_ids]])
        with torch.no_grad():
            dense = (
                load_model("tiny:1").eval()(ids).logits[0, len(request.contrast_prompt_ids) - 1 : -1].log_softmax(-1)
            )
        own = dense.gather(1, torch.from_numpy(trace.response_ids).long()[:, None])[:, 0]
        np.testing.assert_allclose(trace.contrast, own, atol=2e-3)
        assert trace.teacher_prompt_ids is None


def test_the_gap_between_two_readings():
    rows = {name: torch.zeros(2) for name in Rows._fields}
    made = Rows(**{**rows, "teacher_logprobs": torch.tensor([[-1.0, -9.0], [-3.0, -9.0]])})
    with pytest.raises(ValueError, match="compares two readings and these traces have one"):
        PromptGap(absolute=False)(made._replace(contrast=None))
    made = made._replace(contrast=torch.tensor([-2.0, float("nan")]))
    assert PromptGap(absolute=False)(made).tolist() == [1.0, 0.0]
    assert PromptGap(absolute=True)(made._replace(contrast=torch.tensor([-0.5, -0.5]))).tolist() == [0.5, 2.5]


def test_only_right_solutions_are_kept_and_of_these_a_part():
    dataset = Arithmetic(seed=0, train=8, val=2, test=2, kinds=["addition"], levels=[1])
    made = collector(dataset=dataset, teacher=hf(mode="score"))
    keys = made.collect("train", 8).keys
    assert CorrectSamples(then=None).keep(made.open(), keys) == keys
    assert len(CorrectSamples(then=RandomSamples(percent=25, seed=0)).keep(made.open(), keys)) == 2
    wrong = collector()
    keys = wrong.collect("train", 4).keys
    with pytest.raises(ValueError, match=r"none of the 4 texts in .* solves its problem"):
        CorrectSamples(then=None).keep(wrong.open(), keys)
