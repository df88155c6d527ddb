"""Talking to a student: what it reads, what it says, and how its doubts are shown."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from conftest import hf
from rich.console import Console
from test_train import ROOT, ekd, place, train  # noqa: F401 (place is a fixture)

from ekd.chat.speakers import Conversation, Full, ModelSpeaker, TeacherSpeaker
from ekd.chat.talk import SHADES, shaded, talk
from ekd.models.generation import generate
from ekd.models.load import end_ids
from ekd.models.prompt import Prompt

PROMPT = Prompt(system="", instruction="Box it.", shots=0, thinking=None)
SAMPLING = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 6}


def conversation() -> Conversation:
    return Conversation(turn=lambda problem: PROMPT.messages(problem, []))


def speaker(model, tokenizer) -> ModelSpeaker:
    return ModelSpeaker(
        name="student", model=model, tokenizer=tokenizer, prompt=PROMPT, sampling=SAMPLING, conversation=conversation()
    )


def test_it_says_what_generation_says_and_a_second_question_reads_the_first_answer(tiny, tokenizer):
    one, heard = speaker(tiny, tokenizer), []
    reply = one.answer("What is 2+3?", 0, lambda piece, nats: heard.append((piece, nats)))
    ids = PROMPT.ids_of(tokenizer, [{"role": "user", "content": "What is 2+3?\nBox it."}])
    text = generate(tiny, [ids], end=end_ids(tiny, tokenizer), max_new_tokens=6)[0]
    assert "".join(reply.pieces) == tokenizer.decode(text.ids, skip_special_tokens=True) and reply.finish == text.finish
    assert heard == list(zip(reply.pieces, reply.entropy, strict=True)) and min(reply.entropy) > 0
    roles = [message["role"] for message in one.conversation.asked("And 3+4?")]
    assert roles == ["user", "assistant", "user"]
    assert one.conversation.asked("And 3+4?")[1]["content"] == "".join(reply.pieces)


def test_the_teacher_of_the_same_model_says_the_same_with_the_same_doubts(tokenizer):
    from dataclasses import replace

    told = replace(hf(model="tiny"), **SAMPLING)
    teacher = TeacherSpeaker(
        name="teacher", teacher=told, tokenizer=tokenizer, prompt=PROMPT, conversation=conversation()
    )
    from ekd.models.load import load_model

    one, other = (
        s.answer("2+3?", 0, lambda *_: None) for s in (teacher, speaker(load_model("tiny").eval(), tokenizer))
    )
    assert one.pieces == other.pieces and one.entropy == pytest.approx(other.entropy, abs=0.01)


def test_a_conversation_beyond_the_context_is_said_and_new_forgets_it(tiny, tokenizer):
    one, out = speaker(tiny, tokenizer), io.StringIO()
    long = "word " * tiny.config.max_position_embeddings
    with pytest.raises(Full, match="/new begins anew"):
        one.answer(long, 0, lambda *_: None)
    talk([one], ["2+3?", "", long, "/new", "/quit", "never asked"], Console(file=out, width=200), 0)
    said = out.getvalue()
    assert said.count("mean entropy") == 1 and "/new begins anew" in said and not one.conversation.said


@pytest.mark.parametrize("width", [80, 120])
def test_two_stand_side_by_side_and_no_line_is_wider_than_the_terminal(tiny, tokenizer, width):
    out = io.StringIO()
    talk([speaker(tiny, tokenizer), speaker(tiny, tokenizer)], ["2+3?"], Console(file=out, width=width), 0)
    assert all(len(line) <= width for line in out.getvalue().splitlines())
    assert any(line.count("student") == 2 for line in out.getvalue().splitlines())


def test_the_less_sure_the_darker_and_nothing_steers_the_terminal():
    assert [shaded("x", nats).style for nats in (0.1, 0.3, 1.0, 9.0)] == ["", *(style for _, style in SHADES)]
    assert shaded("\x1b[2J", 0.0).plain == "\\x1b[2J"


def test_a_run_is_talked_to_through_the_command_line_and_its_teacher_beside_it(place):  # noqa: F811
    run = train(place, "trainer.max_steps=1", "benchmark.problems=0")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "EKD_HOME": str(place / "home")}
    done = subprocess.run(
        [sys.executable, "-m", "ekd.chat", f"run={run}", "beside=true", "max_new_tokens=5"],
        input="What is 2+3?\n", cwd=place, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "student" in done.stdout and "teacher" in done.stdout and "mean entropy" in done.stdout
    assert "\x1b" not in done.stdout
    refused = ekd("chat", cwd=place)
    assert refused.returncode == 2 and "give run=RUN" in refused.stderr and "Traceback" not in refused.stderr
