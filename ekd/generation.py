"""Batched generation through transformers' `generate`, with a random stream for every sequence.

`generate` samples a whole batch from one global generator, so a text depends on its neighbours. Here each sequence has
a seed of its own and draws by the Gumbel-max trick (argmax of log p + Gumbel noise is a sample of p), so that batch
size, order and restarts do not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

Watch = Callable[[Tensor, Tensor], None]  # (raw logits (B, V), chosen id (B,)) at every step


class Text(NamedTuple):
    ids: list[int]  # the end token included when finish is "stop"
    finish: str  # "stop" or "length"
    seconds: float = 0.0  # its share of the time that the machine was busy


class _Choose(LogitsProcessor):
    """Chooses the next token itself and leaves `generate` no other: all other logits become -inf."""

    def __init__(
        self, temperature: float, top_p: float, seeds: Sequence[int], device: torch.device, watch: Watch | None
    ):
        self.temperature, self.top_p, self.watch = temperature, top_p, watch
        self.streams = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        chosen = self._choose(scores.float())
        if self.watch is not None:
            self.watch(scores, chosen)
        forced = torch.full_like(scores, float("-inf"))
        return forced.scatter_(1, chosen[:, None], 0.0)

    def _choose(self, logits: Tensor) -> Tensor:
        if self.temperature == 0:
            return logits.argmax(-1)
        log_p = (logits / self.temperature).log_softmax(-1)
        if self.top_p < 1:
            log_p = nucleus(log_p, self.top_p)
        noise = torch.empty_like(log_p)
        for row, stream in zip(noise, self.streams, strict=True):
            row.exponential_(generator=stream)
        return (log_p - noise.log()).argmax(-1)


def nucleus(log_p: Tensor, top_p: float) -> Tensor:
    """(B, V) -> the same with -inf outside the smallest set of tokens whose mass reaches top_p."""
    ordered, ids = log_p.sort(-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    return log_p.scatter(-1, ids, ordered.masked_fill(before >= top_p, float("-inf")))


def left_pad(prompts: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """-> input_ids, attention_mask (B, longest). On the left, so that every prompt ends where generation begins."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return ids, mask


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    end: set[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seeds: Sequence[int] | None = None,
    watch: Watch | None = None,
) -> list[Text]:
    """One text for each prompt. temperature 0 is greedy; seeds are then not used."""
    began, pad = monotonic(), min(end)
    ids, mask = left_pad(prompts, pad)
    choose = _Choose(temperature, top_p, seeds or [0] * len(prompts), model.device, watch)
    # A model's own generation config (Qwen: repetition_penalty 1.05, top_k 20) would change the logits before we see
    # them.
    own = model.generation_config
    model.generation_config = GenerationConfig(
        max_new_tokens=max_new_tokens, eos_token_id=sorted(end), pad_token_id=pad, do_sample=False
    )
    try:
        out = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            logits_processor=LogitsProcessorList([choose]),
        )
    finally:
        model.generation_config = own
    texts = out[:, ids.shape[1] :].tolist()
    seconds = (monotonic() - began) / len(prompts)
    return [_until_end(row, end, seconds) for row in texts]


def _until_end(ids: list[int], end: set[int], seconds: float) -> Text:
    for place, token in enumerate(ids):
        if token in end:
            return Text(ids[: place + 1], "stop", seconds)
    return Text(ids, "length", seconds)
