"""An Ollama teacher of which only texts are known: asked in messages, and its rows by what their words spell.

Used by teacher/ollama.py alone.
"""

from __future__ import annotations

import ollama
from transformers import PreTrainedTokenizerBase

from ekd.teacher.wire.matching import believable
from ekd.teacher.wire.ollama_server import entry_of
from ekd.translate.said import Named, Said, said_by_texts


def as_generated(said: ollama.ChatResponse) -> ollama.GenerateResponse:
    """The answer to messages as that to a raw prompt."""
    shared = {name: value for name, value in said.model_dump().items() if name not in ("message", "logprobs")}
    message = said.message
    made = ollama.GenerateResponse(**shared, response=message.content or "", thinking=message.thinking)
    return made.model_copy(update={"logprobs": said.logprobs})


def said_of(said: ollama.GenerateResponse) -> Said:
    """Raises ValueError for an answer whose tokens do not spell its text."""
    stopped, entries = said.done_reason == "stop", [entry_of(entry) for entry in said.logprobs or ()]
    if b"".join(entry.spelling for entry in entries) != (said.response or "").encode():
        raise ValueError("the words that the server lists do not spell its answer")
    if not entries and not stopped:
        raise ValueError("the answer does not hold one whole character; give a larger teacher.max_new_tokens")
    missing = None if said.eval_count is None else said.eval_count - stopped - len(entries)
    named = [Named(entry.spelling, entry.logprob, entry.top) for entry in entries]
    return said_by_texts(named, stopped=stopped, valid=believable(entries, missing))


async def tokens_of(client: ollama.AsyncClient, model: str) -> list[str] | None:
    """The model's vocabulary, by id; None where the server does not tell."""
    try:
        tokens = ((await client.show(model)).modelinfo or {}).get("tokenizer.ggml.tokens")
    except (ollama.ResponseError, ValueError):
        return None
    return tokens if isinstance(tokens, list) and all(isinstance(token, str) for token in tokens) and tokens else None


def same_tokens(tokens: list[str], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the ids of both mean the same texts; special tokens apart, which a GGUF may name otherwise."""
    return all(
        tokens[i] == token
        for token, i in tokenizer.get_vocab().items()
        if i < len(tokens) and i not in tokenizer.added_tokens_decoder
    )
