"""Who answers: a model that this process holds, or any teacher. Each keeps the conversation as it reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ekd.eval.answers import Spelt, pieces
from ekd.models.generation import context_of, generate
from ekd.models.load import end_ids
from ekd.models.prompt import Prompt
from ekd.models.softmax import softmax_of
from ekd.models.turn import Message
from ekd.types import Failure, Problem, Request, Teacher

Heard = Callable[[str, float], None]  # a piece of text as it is written, and the entropy before it, nats


class Full(ValueError):
    """The conversation leaves the model no room for an answer."""


class Reply(NamedTuple):
    pieces: list[str]  # of each token
    entropy: list[float]  # nats, of the distribution before each
    finish: str  # "stop" or "length"


@dataclass(kw_only=True)
class Conversation:
    """turn: a question -> the messages that put it to a reader who knows nothing yet; the last is its own."""

    turn: Callable[[Problem], list[Message]]
    said: list[Message] = field(default_factory=list)

    def asked(self, question: str) -> list[Message]:
        first = self.turn(Problem("chat", question, "", ""))
        return [*self.said, first[-1]] if self.said else first

    def keep(self, messages: list[Message], answer: str) -> None:
        self.said = [*messages, {"role": "assistant", "content": answer}]

    def forget(self) -> None:
        self.said = []


@dataclass(frozen=True, kw_only=True)
class ModelSpeaker:
    """sampling: temperature, top_p and max_new_tokens, as `generate` takes them."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompt: Prompt
    sampling: dict[str, Any]
    conversation: Conversation

    def answer(self, question: str, seed: int, heard: Heard) -> Reply:
        """`heard` is told each piece as it is written. Raises `Full`."""
        messages = self.conversation.asked(question)
        ids, room = self.prompt.ids_of(self.tokenizer, messages), context_of(self.model)
        if len(ids) >= room:
            raise Full(
                f"the conversation has {len(ids)} tokens and {self.name}'s context is {room:.0f}: /new begins anew"
            )
        end, spelt = end_ids(self.model, self.tokenizer), Spelt(self.tokenizer)
        reply = Reply([], [], "")

        def watch(_: list[int], logits: Tensor, chosen: Tensor) -> None:
            reply.pieces.append(spelt.add(int(chosen)))
            reply.entropy.append(float(softmax_of(logits)[2]))
            heard(reply.pieces[-1], reply.entropy[-1])

        text = generate(self.model, [ids], end=end, seeds=[seed], watch=watch, **self.sampling)[0]
        self.conversation.keep(messages, "".join(reply.pieces))
        return reply._replace(finish=text.finish)


@dataclass(frozen=True, kw_only=True)
class TeacherSpeaker:
    """teacher: open, and told how to sample; tokenizer: of the ids that it is asked in."""

    name: str
    teacher: Teacher
    tokenizer: PreTrainedTokenizerBase
    prompt: Prompt
    conversation: Conversation

    def answer(self, question: str, seed: int, heard: Heard) -> Reply:
        """`heard` is told the whole at the end. Raises ValueError where the teacher fails."""
        messages = self.conversation.asked(question)
        ids = replace(self.prompt, system="").ids_of(self.tokenizer, messages)  # its system message may be another
        trace = next(iter(self.teacher.trace([Request("chat", "chat", 0, seed, ids)])))
        if isinstance(trace, Failure):
            raise ValueError(f"the teacher failed: {trace.reason}")
        reply = Reply(pieces(self.tokenizer, trace.response_ids.tolist()), trace.entropy.tolist(), trace.finish)
        for piece, nats in zip(reply.pieces, reply.entropy, strict=True):
            heard(piece, nats)
        self.conversation.keep(messages, "".join(reply.pieces))
        return reply


Speaker = ModelSpeaker | TeacherSpeaker
