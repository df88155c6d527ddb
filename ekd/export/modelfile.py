"""A Modelfile, with the student's chat template in Ollama's own language.

Ollama cannot read Jinja. But most chat templates put a fixed frame around each message, by role; the frames are found
by rendering marked messages, written as a Go template, and checked against the Jinja template on other conversations.
A template that is not of this kind gives no TEMPLATE line: Ollama then guesses one from the GGUF.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ekd.models.turn import end_of_turn

ROLES = ("system", "user", "assistant")
Message = dict[str, str]


class Frames(NamedTuple):
    around: dict[str, tuple[str, str]]  # role -> what stands before and behind its content
    system: str | None  # the system message that the template puts in where there is none
    answer: str  # what stands before the answer
    start: str  # what stands before everything: "", or a BOS token that nobody else adds


def modelfile(gguf: str, tokenizer: PreTrainedTokenizerBase, system: str, sampling: Mapping[str, float]) -> str:
    """gguf: file name beside the Modelfile. system: the system message of the training, "" for none.

    sampling: how the student was evaluated; Ollama would take its own defaults otherwise.
    """
    frames, end = find_frames(tokenizer), str(tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer)))
    lines = [f"FROM ./{gguf}"]
    if frames is not None:
        lines.append(f"TEMPLATE {quoted('chat template', go_template(frames))}")
        system = system or frames.system or ""
    if system:
        lines.append(f"SYSTEM {quoted('system message', system)}")
    lines.append(f"PARAMETER stop {quoted('end token', end)}")
    return "\n".join([*lines, *(f"PARAMETER {name} {float(value):g}" for name, value in sampling.items()), ""])


def quoted(what: str, text: str) -> str:
    """A value of a Modelfile. Raises ValueError where it could end before its end: there is no escape character.

    Ollama takes a value as ended at the first line end behind which a quote is closed (its parser/parser.go).
    """
    if '"""' in text:
        raise ValueError(
            f"the {what} {text[:80]!r} holds three quotes in a row, behind which a Modelfile would go on with other "
            "directives: export it as format=gguf, and write the Modelfile yourself"
        )
    return f'"""{text}"""'


def go_template(frames: Frames) -> str:
    cases = [
        f'eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{behind}' for role, (before, behind) in frames.around.items()
    ]
    return (
        frames.start + "{{- range .Messages }}{{ if " + "{{ else if ".join(cases) + "{{ end }}{{ end }}" + frames.answer
    )


def find_frames(tokenizer: PreTrainedTokenizerBase) -> Frames | None:
    """None where the template is not made of fixed frames."""
    try:
        for start in ("", str(tokenizer.bos_token)):
            frames = _guess(tokenizer, start)
            if (
                frames is not None
                and literal(frames)
                and all(render(tokenizer, talk, answer=True) == applied(frames, talk) for talk in _conversations())
            ):
                return frames
    except TemplateError:  # e.g. a template that refuses system messages
        pass
    return None


def literal(frames: Frames) -> bool:
    """Whether Go's template language takes every frame as it is: none begins one of its actions."""
    texts = [frames.start, frames.answer, *(text for both in frames.around.values() for text in both)]
    return not any("{{" in text or text.endswith("{") for text in texts)


def applied(frames: Frames, messages: list[Message]) -> str:
    """What Ollama makes of the messages, in Python."""
    if frames.system is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": frames.system}, *messages]
    framed = (frames.around[m["role"]][0] + m["content"] + frames.around[m["role"]][1] for m in messages)
    return frames.start + "".join(framed) + frames.answer


def render(tokenizer: PreTrainedTokenizerBase, messages: list[Message], answer: bool) -> str:
    """By Jinja, without a BOS token that the tokenizer, and so the server, adds by itself."""
    text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer))
    adds = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return text.removeprefix(str(tokenizer.bos_token)) if adds else text


def _guess(tokenizer: PreTrainedTokenizerBase, start: str) -> Frames | None:
    marked = {role: f"<<{role}>>" for role in ROLES}
    talk = [{"role": role, "content": marked[role]} for role in ROLES]
    behind = {}
    for n, role in enumerate(ROLES):  # a user's turn must come before an assistant's, a system's before all
        behind[role] = render(tokenizer, talk[: n + 1] if n else [talk[0], talk[1]], answer=False)
    behind["assistant"] = behind["assistant"].partition(marked["assistant"])[2]
    behind["user"] = behind["user"].partition(marked["user"])[2]
    whole = render(tokenizer, [*talk, talk[1]], answer=True).removeprefix(start)
    parts = re.split("|".join(map(re.escape, marked.values())), whole)
    if len(parts) != 5:
        return None
    first, to_user, to_assistant, back_to_user, answer = parts
    if not (back_to_user.startswith(behind["assistant"]) and to_assistant.startswith(behind["user"])):
        return None
    before_user = back_to_user.removeprefix(behind["assistant"])
    around = {
        "system": (first, to_user.removesuffix(before_user)),
        "user": (before_user, behind["user"]),
        "assistant": (to_assistant.removeprefix(behind["user"]), behind["assistant"]),
    }
    alone = render(tokenizer, [talk[1]], answer=False).removeprefix(start)
    head = alone.removesuffix(before_user + marked["user"] + behind["user"])
    system = head.removeprefix(first).removesuffix(around["system"][1]) if head else None
    return Frames(around, system, answer.removeprefix(behind["user"]), start)


def _conversations() -> list[list[Message]]:
    """Alternating talks of several lengths, with and without a system message."""
    words = ["What is 2 + 3?", "It is \\boxed{5}.", "And 5 + 1?", "6", "Thanks."]
    talks = []
    for start in ([], [{"role": "system", "content": "Be brief."}]):
        for length in (1, 3, 5):
            turns = [{"role": ROLES[1 + n % 2], "content": word} for n, word in enumerate(words[:length])]
            assert all(a["role"] != b["role"] for a, b in pairwise(turns))
            talks.append([*start, *turns])
    return talks
