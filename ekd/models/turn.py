"""Where a turn ends, by the chat template, and how a given solution is said in it.

A tokenizer's end-of-text token need not be what ends an answer: Gemma's template closes a turn with <end_of_turn>,
Llama 3's with <|eot_id|>. A student that is taught another token than the one its template puts there does not stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
MARK = "answer-1"  # plain words, which no template changes or splits
OPEN, CLOSE = "<think>", "</think>"


def render_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, answer: bool, thinking: bool | None = None
) -> str:
    """answer: up to where an answer begins. Raises jinja2.TemplateError where the template refuses the messages."""
    extra: dict[str, Any] = {} if thinking is None else {"enable_thinking": thinking}
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=answer, **extra)
    return str(text)


def first_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that plain text follows: what begins a text, else what ends one. Raises ValueError without either."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise ValueError(
        f"the tokenizer of {tokenizer.name_or_path!r} has neither a first nor an end token, so plain text has nothing "
        'to follow; give its tokenizer_config.json a "bos_token"'
    )


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that closes an answer: the first special token that the template puts behind one.

    Where the template puts none, or there is none (plain text), it is the tokenizer's end of text. Raises ValueError
    for a tokenizer without either.
    """
    for token in tokenizer.encode(_behind_answer(tokenizer), add_special_tokens=False):
        if token in tokenizer.added_tokens_decoder or token in tokenizer.all_special_ids:
            return int(token)
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no end token and its chat template writes none, so an "
            'answer would never end; give its tokenizer_config.json an "eos_token"'
        )
    return int(tokenizer.eos_token_id)


def _behind_answer(tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer.chat_template is None:
        return ""
    talk = [{"role": "user", "content": "question"}, {"role": "assistant", "content": MARK}]
    try:
        _, found, behind = render_chat(tokenizer, talk, answer=False).rpartition(MARK)
    except TemplateError:  # one that takes no plain question and answer says nothing of where an answer ends
        return ""
    return behind if found else ""


def answer_text(solution: str, before: str) -> str:
    """A solution as the answer that the prompt has begun: one thought at most, closed before the solution.

    before: what the prompt ends in. Some templates open the thought there (DeepSeek-R1, QwQ), some write an empty one
    (Qwen3 with enable_thinking false); others leave it to the answer, and then a solution stays as it is.
    """
    end = before.rstrip()
    if end.endswith(OPEN):
        own = solution.removeprefix(OPEN).lstrip("\n")
        return own if CLOSE in solution else f"\n{CLOSE}\n\n{solution}"
    if end.endswith(CLOSE) and solution.startswith(OPEN) and CLOSE in solution:
        return solution.partition(CLOSE)[2].lstrip("\n")
    return solution
