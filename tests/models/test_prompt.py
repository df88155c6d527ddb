"""How a problem is put to a model."""

from __future__ import annotations

import pytest

from ekd.models.load import load_tokenizer
from ekd.models.prompt import Prompt
from ekd.types import Problem

SOLVED = [Problem(f"p{i}", f"What is {i}+{i}?", str(2 * i), f"So it is \\boxed{{{2 * i}}}.") for i in range(4)]


def prompt(**changes) -> Prompt:
    return Prompt(**({"system": "Be careful.", "instruction": "Box it.", "shots": 0, "thinking": None} | changes))


def text(problem=SOLVED[3], examples=SOLVED, **changes) -> str:
    tokenizer = load_tokenizer("tiny")
    return tokenizer.decode(prompt(**changes).ids(tokenizer, problem, examples))


def test_the_words_are_the_templates_and_end_where_the_answer_begins():
    assert text() == (
        "<|im_start|>system\nBe careful.<|im_end|>\n"
        "<|im_start|>user\nWhat is 3+3?\nBox it.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "system" not in text(system="") and text(instruction="").count("Box it.") == 0


def test_shots_are_solved_examples_and_never_the_problem_itself():
    shown = text(problem=SOLVED[0], shots=2)
    assert shown.count("<|im_start|>assistant") == 3
    assert "So it is \\boxed{2}.<|im_end|>" in shown and "boxed{0}" not in shown
    with pytest.raises(ValueError, match=r"shots=2, but .* gives 1 problems .*; set prompt.shots=0"):
        text(problem=SOLVED[0], examples=SOLVED[:2], shots=2)


def test_thinking_reaches_the_template():
    tokenizer = load_tokenizer("tiny")
    tokenizer.chat_template += "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    ids = {t: tokenizer.decode(prompt(thinking=t).ids(tokenizer, SOLVED[0], [])) for t in (None, True, False)}
    assert ids[False].endswith("<think></think>") and not ids[True].endswith(">") and ids[None] == ids[True]


def test_plain_text_has_no_template_and_a_base_model_is_recognised():
    tokenizer = load_tokenizer("tiny")
    assert prompt().ids(tokenizer, Problem("t", "", "", "Once upon a time"), []) == [tokenizer.bos_token_id]
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        prompt().ids(tokenizer, SOLVED[0], [])


def test_negative_shots_are_refused():
    with pytest.raises(ValueError, match=r"prompt.shots is 0 or more, not -1"):
        prompt(shots=-1)
