"""vLLM's OpenAI server: /v1/completions with prompts as ids and ids back ("token_id:504"); `prompt_logprobs` scores.

Written from vLLM's source (entrypoints/openai/completion/protocol.py); its logprobs are raw unless the server was
started with another --logprobs-mode, which the probe notices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ekd.teacher.wire.dialect import Post, Solved, WireSampling, closed, falling, named, same_text
from ekd.teacher.wire.faults import Fault, Refused
from ekd.teacher.wire.rows import Row
from ekd.teacher.wire.vocabulary import Vocabulary
from ekd.types import Request


@dataclass(frozen=True, kw_only=True)
class VLLM:
    model: str
    vocabulary: Vocabulary

    async def generate(self, post: Post, request: Request, sampling: WireSampling) -> Solved:
        said = await post(
            "/v1/completions",
            {
                "model": self.model,
                "prompt": request.prompt_ids,
                "max_tokens": sampling.max_new_tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": 0,  # these three: or the model's generation_config decides
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "seed": request.seed % 2**31,
                "logprobs": sampling.top,
                "return_tokens_as_token_ids": True,
            },
        )
        choice = said["choices"][0]
        if choice["finish_reason"] not in ("stop", "length"):
            raise Fault(f"the server stopped with finish_reason {choice['finish_reason']!r}")
        lists = choice["logprobs"]
        ids = [_id(token) for token in lists["tokens"]]
        if not same_text(ids, choice["text"], self.vocabulary):
            raise Refused(
                "the server's ids mean other texts to the student's tokenizer: they are of different families"
            )
        rows: list[Row | None] = [
            falling([(_id(token), value) for token, value in top.items()], own)
            for top, own in zip(lists["top_logprobs"], lists["token_logprobs"], strict=True)
        ]
        return closed(ids, named(rows, sampling.top), choice["finish_reason"], self.vocabulary)

    async def score(self, post: Post, request: Request, top: int) -> Solved:
        ids = list(request.response_ids or ())
        said = await post(
            "/v1/completions",
            {
                "model": self.model,
                "prompt": [*request.prompt_ids, *ids],
                "max_tokens": 1,  # a token that nobody needs: 0 is refused
                "temperature": 0,
                "prompt_logprobs": top,
            },
        )
        places = said["choices"][0]["prompt_logprobs"][len(request.prompt_ids) :]
        rows: list[Row | None] = [_scored(place, i) for place, i in zip(places, ids, strict=True)]
        return Solved(ids, named(rows, top), "length" if ids[-1] in self.vocabulary.bytes_of else "stop")


def _scored(place: dict[str, Any], token: int) -> Row:
    return falling([(int(i), said["logprob"]) for i, said in place.items()], place[str(token)]["logprob"])


def _id(token: str) -> int:
    kind, _, number = token.partition(":")
    if kind != "token_id":
        raise Refused("this server does not give token ids (return_tokens_as_token_ids); say teacher.server=text")
    return int(number)
