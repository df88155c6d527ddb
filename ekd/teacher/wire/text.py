"""Any other server with OpenAI's /v1/completions (hosted ones): texts out, texts back, matched to ids by bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ekd.teacher.wire.dialect import Post, Solved, WireSampling, check_alternatives, check_prompt
from ekd.teacher.wire.faults import Fault, Refused
from ekd.teacher.wire.matching import Entry, align_entries
from ekd.teacher.wire.rows import Row
from ekd.teacher.wire.vocabulary import Vocabulary
from ekd.types import Request


@dataclass(frozen=True, kw_only=True)
class TextDialect:
    model: str
    vocabulary: Vocabulary

    async def generate(self, post: Post, request: Request, sampling: WireSampling) -> Solved:
        said = await post(
            "/v1/completions",
            {
                "model": self.model,
                "prompt": self.vocabulary.prompt(request.prompt_ids),
                "max_tokens": sampling.max_new_tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "seed": request.seed % 2**31,
                "logprobs": sampling.top,
            },
        )
        choice, usage = said["choices"][0], said.get("usage") or {}
        if choice["finish_reason"] not in ("stop", "length"):
            raise Fault(f"the server stopped with finish_reason {choice['finish_reason']!r}")
        check_prompt(usage.get("prompt_tokens"), len(request.prompt_ids))
        ids, rows = self._read(choice, usage.get("completion_tokens"), sampling.top)
        return Solved(ids, rows, choice["finish_reason"])

    async def score(self, post: Post, request: Request, top: int) -> Solved:
        raise Refused(
            "only llama-server, vLLM and SGLang are known to score given solutions; use one of them, or teacher=hf"
        )

    def _read(self, choice: dict[str, Any], told: int | None, top: int) -> tuple[list[int], list[Row | None]]:
        lists = choice.get("logprobs") or {}
        if not lists.get("top_logprobs"):
            raise Refused("the server gives no logprobs for /v1/completions, so it cannot be a teacher")
        # a list by text holds all halves of characters as one
        check_alternatives([len(given) for given in lists["top_logprobs"] if "\ufffd" not in given], top)
        entries = [
            Entry(_spelling(token), own, [(_spelling(t), v) for t, v in sorted(top.items(), key=lambda i: -i[1])])
            for token, own, top in zip(lists["tokens"], lists["token_logprobs"], lists["top_logprobs"], strict=True)
        ]
        stopped = choice["finish_reason"] == "stop"
        end = self.vocabulary.end_text
        shown = bool(stopped and entries and entries[-1].spelling == end.encode())
        tokens = None if told is None else told - (stopped and (shown or told == len(entries) + 1))
        ids, rows = align_entries(
            entries[:-1] if shown else entries, choice["text"].removesuffix(end), tokens, self.vocabulary
        )
        if stopped:
            ids.append(self.vocabulary.end)
            rows.append(self._named(entries[-1]) if shown else None)
        if not ids:
            raise Refused("the answer is empty")
        return ids, rows

    def _named(self, entry: Entry) -> Row:
        """The end token's row, where the server shows that token by name."""
        pairs = [(self.vocabulary.id_of.get(spelling), value) for spelling, value in entry.top]
        named = [(i, value) for i, value in pairs if i is not None]
        return Row(entry.logprob, [i for i, _ in named], [value for _, value in named])


def _spelling(token: str) -> bytes:
    r"""OpenAI writes a token that is no text as "bytes:\xf0\x9f"."""
    if token.startswith("bytes:"):
        return bytes(int(pair, 16) for pair in re.findall(r"\\x([0-9a-f]{2})", token))
    return token.encode()
