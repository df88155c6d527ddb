"""teacher=ollama and a model that can think, as recorded: the server takes the thought away unless told not to."""

from __future__ import annotations

import json

import pytest
from wire_servers import Replay, build, exchanges, serve

from ekd.models.prompt import Prompt
from ekd.teacher.wire.vocabulary import Vocabulary, vocabulary_of
from ekd.types import Failure, Problem, Request, Trace

pytestmark = pytest.mark.real
SAID = exchanges("ollama_thinking")
# As the recorded prompts have it: thinking opens the thought, without it a whole one is there, null leaves both out.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined %}"
    "{{ '<think>\n' if enable_thinking else '<think>\nSeven.\n</think>\n\nThe' }}{% endif %}"
)
ASKED = {
    True: ("raw_prompt_opens_think", "What is 3+4? Think first.", 48),
    False: ("raw_text_holds_think_tags", "What is 3+4?", 24),
    None: ("raw_prompt_plain", "What is 3+4?", 48),
}


def greeting() -> list[dict]:
    """A list of models and a first answer, of a model by this name."""
    pairs = exchanges()
    return [
        json.loads(json.dumps(pairs[n]).replace("smollm2", "smolthink")) for n in ("tags", "plain_position_no_format")
    ]


@pytest.fixture
def vocabulary(monkeypatch: pytest.MonkeyPatch) -> Vocabulary:
    monkeypatch.setattr("ekd.teacher.ollama.TOP", 5)  # as many as were recorded
    return vocabulary_of("smollm2")


def ask(vocabulary: Vocabulary, thinking: bool | None, think: str = "*") -> Trace | Failure:
    """The answer to the prompt that `prompt.thinking` makes. think: the server gives only the recordings with this."""
    name, question, tokens = ASKED[thinking]
    made = Prompt(system="", instruction="", shots=0, thinking=thinking)
    template, vocabulary.tokenizer.chat_template = vocabulary.tokenizer.chat_template, TEMPLATE
    try:
        ids = made.ids(vocabulary.tokenizer, Problem("a", question, "7"), [])
    finally:
        vocabulary.tokenizer.chat_template = template
    pairs = [pair for key, pair in SAID.items() if key.startswith(name) and think in ("*", key.rpartition("_")[2])]
    settings = {
        "model": "smolthink",
        "tokenizer": "smollm2",
        "max_new_tokens": tokens,
        "num_ctx": 2048,
        "backoff": 0.01,
    }
    with serve(Replay(pairs=[*pairs, *greeting()])) as url:
        (answer,) = build("ollama", {**settings, "endpoints": [url]}).trace([Request("a", "a", 0, 7, ids)])
    return answer


@pytest.mark.parametrize("thinking", [True, False, None])
def test_the_text_stays_whole_however_the_prompt_opens(vocabulary: Vocabulary, thinking: bool | None) -> None:
    said = json.loads(SAID[f"{ASKED[thinking][0]}__think_false"]["response_body"])
    trace = ask(vocabulary, thinking)
    assert isinstance(trace, Trace), trace
    stopped = said["done_reason"] == "stop"
    body = trace.response_ids[: -stopped or None].tolist()
    assert b"".join(vocabulary.bytes_of[i] for i in body).decode() == said["response"]
    assert [vocabulary.bytes_of[i].decode() for i in body] == [e["token"] for e in said["logprobs"]]
    assert trace.valid[: -stopped or None].all()


@pytest.mark.parametrize("think", ["absent", "true"])
def test_a_server_that_does_not_heed_it_is_refused_with_what_is_true(vocabulary: Vocabulary, think: str) -> None:
    """As recorded without the field, or with true: an opened thought is missing from the text."""
    failure = ask(vocabulary, True, think)
    assert isinstance(failure, Failure)
    assert "although it was asked not to (think: false)" in failure.reason
    for whole in (False, None):
        assert isinstance(ask(vocabulary, whole, think), Trace)
