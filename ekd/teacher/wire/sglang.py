"""SGLang, through its own /generate: prompts as ids, ids back; `logprob_start_len` scores.

Written from SGLang's documentation. By default it divides the logits of a sampled token by the temperature before it
takes logprobs; the probe notices, and SGLANG_RETURN_ORIGINAL_LOGPROB=1 in the server's environment cures it.
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
class SGLang:
    model: str
    vocabulary: Vocabulary

    async def generate(self, post: Post, request: Request, sampling: WireSampling) -> Solved:
        choice = {
            "max_new_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": -1,  # these two: or the model's generation_config decides
            "min_p": 0.0,
            "sampling_seed": request.seed % 2**31,
        }
        said = await post("/generate", _body(request.prompt_ids, choice, sampling.top, -1))
        meta = said["meta_info"]
        finish = meta["finish_reason"]["type"]
        if finish not in ("stop", "length"):
            raise Fault(f"SGLang stopped with finish_reason {finish!r}")
        ids = [entry[1] for entry in meta["output_token_logprobs"]]
        if not same_text(ids, said["text"], self.vocabulary):
            raise Refused(
                "the server's ids mean other texts to the student's tokenizer: they are of different families"
            )
        return closed(ids, named(_rows(meta, "output"), sampling.top), finish, self.vocabulary)

    async def score(self, post: Post, request: Request, top: int) -> Solved:
        ids = list(request.response_ids or ())
        start = len(request.prompt_ids) - 1  # the first entry of the lists is the token at `start`, without a logprob
        said = await post(
            "/generate", _body([*request.prompt_ids, *ids], {"max_new_tokens": 1, "temperature": 0}, top, start)
        )
        meta = said["meta_info"]
        told = [entry[1] for entry in meta["input_token_logprobs"]]
        if told[-len(ids) :] != ids:
            raise Refused("SGLang's input_token_logprobs are not those of the response")
        return Solved(
            ids,
            named(_rows(meta, "input")[-len(ids) :], top),
            "length" if ids[-1] in self.vocabulary.bytes_of else "stop",
        )


def _body(ids: list[int], choice: dict[str, Any], top: int, start: int) -> dict[str, Any]:
    return {
        "input_ids": ids,
        "sampling_params": choice,
        "return_logprob": True,
        "logprob_start_len": start,
        "top_logprobs_num": top,
    }


def _rows(meta: dict[str, Any], which: str) -> list[Row | None]:
    """[logprob, id, text] for each token, and a list of the same for its alternatives; null where there is none."""
    tops = meta[f"{which}_top_logprobs"]
    return [
        None if own[0] is None else falling([(i, value) for value, i, _ in top or ()], own[0])
        for own, top in zip(meta[f"{which}_token_logprobs"], tops, strict=True)
    ]
