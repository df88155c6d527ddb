"""llama.cpp's llama-server, through its own /completion: prompts as ids, ids back, any number of alternatives.

It has no call that scores a text. But a grammar of token ids ("<[504]> <[3575]>") leaves it no other choice, and its
logprobs are taken before any grammar or sampler: so it scores at the speed at which it generates. It gives no
logprobs for a token that ends in the middle of a character; that is an unmatched row.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ekd.teacher.wire.dialect import Post, Solved, WireSampling, closed, named, same_text, whole_characters
from ekd.teacher.wire.faults import Fault, Refused
from ekd.teacher.wire.rows import Row
from ekd.teacher.wire.vocabulary import Vocabulary
from ekd.types import Request

FORCE = 1e9  # added to a logit, decides


@dataclass(frozen=True, kw_only=True)
class Llama:
    model: str
    vocabulary: Vocabulary

    async def generate(self, post: Post, request: Request, sampling: WireSampling) -> Solved:
        said = await post(
            "/completion",
            {
                **self._body(request.prompt_ids, sampling.top, sampling.max_new_tokens),
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "seed": request.seed % 2**31,
            },
        )
        if said["stop_type"] not in ("eos", "limit"):
            raise Fault(f"llama-server stopped with stop_type {said['stop_type']!r}")
        if not same_text(said["tokens"], said["content"], self.vocabulary):
            raise Refused(
                "the server's ids mean other texts to the student's tokenizer: they are of different families"
            )
        finish = "stop" if said["stop_type"] == "eos" else "length"
        return closed(said["tokens"], named(self._rows(said), sampling.top), finish, self.vocabulary)

    async def score(self, post: Post, request: Request, top: int) -> Solved:
        """One request for each stretch of tokens that end whole characters: one for most texts."""
        ids = list(request.response_ids or ())
        body, end = (ids[:-1], ids[-1:]) if ids[-1] not in self.vocabulary.bytes_of else (ids, [])
        rows: list[Row | None] = []
        # A token can be forced where it begins and ends a whole character.
        ends = whole_characters(body, self.vocabulary)
        begins = [True, *ends][: len(ends)]
        for possible, stretch in groupby(range(len(body)), key=lambda i: begins[i] and ends[i]):
            places = list(stretch)
            if possible:
                rows += await self._force(
                    post, [*request.prompt_ids, *body[: places[0]]], [body[i] for i in places], top
                )
            else:
                rows += [None] * len(places)
        if end:
            rows += await self._end(post, [*request.prompt_ids, *body], end[0], top)
        return Solved(ids, named(rows, top), "stop" if end else "length")

    async def _force(self, post: Post, prompt: list[int], ids: list[int], top: int) -> list[Row | None]:
        grammar = "root ::= " + " ".join(f"<[{i}]>" for i in ids)
        said = await post("/completion", {**self._body(prompt, top, len(ids)), "temperature": 0, "grammar": grammar})
        return self._forced(said, ids)

    async def _end(self, post: Post, prompt: list[int], end: int, top: int) -> list[Row | None]:
        said = await post("/completion", {**self._body(prompt, top, 1), "temperature": 0, "logit_bias": [[end, FORCE]]})
        return self._forced(said, [end])

    def _forced(self, said: dict[str, Any], ids: list[int]) -> list[Row | None]:
        if said["tokens"] != ids:
            raise Refused("this llama-server does not follow a grammar of token ids; update it, or use teacher=hf")
        return self._rows(said)

    def _body(self, prompt: list[int], top: int, tokens: int) -> dict[str, Any]:
        return {
            "model": self.model,  # in router mode one server has several
            "prompt": prompt,
            "n_predict": tokens,
            "n_probs": top,
            "return_tokens": True,
            "post_sampling_probs": False,
            "cache_prompt": True,
            "top_k": 0,
            "min_p": 0.0,
            "repeat_penalty": 1.0,
            "stop": [],
        }

    def _rows(self, said: dict[str, Any]) -> list[Row | None]:
        """Entries have ids but no places: one for each token that ends a whole character."""
        entries = said.get("completion_probabilities", [])
        shown = whole_characters(said["tokens"], self.vocabulary)
        if [e["id"] for e in entries] != [i for i, show in zip(said["tokens"], shown, strict=True) if show]:
            return [None] * len(said["tokens"])
        waiting = iter(entries)
        return [_row(next(waiting)) if show else None for show in shown]


def _row(entry: dict[str, Any]) -> Row:
    top = entry["top_logprobs"]
    return Row(entry["logprob"], [t["id"] for t in top], [t["logprob"] for t in top])
