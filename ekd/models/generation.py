"""Batched generation, one token at a time for all, with a random stream for every sequence.

transformers' `generate` samples a whole batch from one global generator, so a text depends on its neighbours. Here each
sequence has a seed of its own and draws by the Gumbel-max trick (argmax of log p + Gumbel noise is a sample of p), so
that batch size, order and restarts do not matter. And `generate` computes finished sequences on until the last one
ends; here they leave the batch as soon as they are a quarter of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor
from transformers import PreTrainedModel

from ekd.models.keys import roomy_cache
from ekd.models.precision import cast_once
from ekd.models.prefix import Tree, keeps_keys, kinds, read_begun
from ekd.types import Text

# At every step: which prompt each row of the batch belongs to (b), raw logits (b, V), chosen ids (b,). Rows that are
# finished stay for a while; what they choose is not part of their text.
Watch = Callable[[list[int], Tensor, Tensor], None]


class _Choose:
    """Logits (b, V) and the prompts they belong to -> ids (b,)."""

    def __init__(self, temperature: float, top_p: float, seeds: Sequence[int], device: torch.device) -> None:
        self.temperature, self.top_p = temperature, top_p
        self.streams = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, logits: Tensor, rows: Sequence[int]) -> Tensor:
        if self.temperature == 0:
            return _highest(logits)
        log_p = (logits.float() / self.temperature).log_softmax(-1)
        if self.top_p < 1:
            log_p = nucleus(log_p, self.top_p)
        noise = torch.empty_like(log_p)
        for place, row in enumerate(rows):
            noise[place].exponential_(generator=self.streams[row])
        return _highest(log_p - noise.log())


def _highest(scores: Tensor) -> Tensor:
    """(b, V) -> (b,), of equal ones the first. torch's argmax takes five times as long on CPU."""
    return scores.max(-1).indices


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


class _Begun(NamedTuple):
    """A batch whose first logits are not asked for yet."""

    ids: Tensor  # (N, W) what is still to be read of each prompt, padded on the left
    mask: Tensor  # (N, columns of the cache + W) 1 = real
    position: Tensor  # (N, W)
    cache: Any  # None: the model makes its own


def _begin(model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad: int) -> _Begun:
    """What several prompts begin with (a system message, worked examples) is read here, once.

    Not where a window of attention would count the padding between that and the rest of a prompt.
    """
    tree = Tree([prompt[:-1] for prompt in prompts], [len(prompt) for prompt in prompts], together=True)
    alike, device = len({len(prompt) for prompt in prompts}) == 1, model.device
    cut, cache = 0, roomy_cache(model)
    if tree.cuts and keeps_keys(model) and (alike or kinds(model) == {"full_attention"}):
        cut = tree.cuts[-1]
        *begun, (_, _, parent) = move_data_to_device(tree.chains()[0], device)
        ids = torch.tensor([[*prompt[:cut], *[pad] * (cut - len(prompt))] for prompt in prompts], device=device)
        positions = torch.arange(cut, device=device).expand_as(ids)
        cache, _ = read_begun(model.get_decoder().__call__, ids, positions, begun, cache)
        cache.batch_select_indices(parent)
    began = [len(prompt) > cut for prompt in prompts]  # others see nothing of the cache
    rests = [prompt[cut:] if has else prompt for prompt, has in zip(prompts, began, strict=True)]
    ids, own_mask = left_pad(rests, pad)
    mask = torch.cat([torch.tensor(began).to(own_mask)[:, None].expand(-1, cut), own_mask], 1).to(device)
    return _Begun(ids.to(device), mask, (mask.cumsum(1) - 1).clamp_min(0)[:, cut:], cache)


@torch.inference_mode()
@cast_once
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
    """One text for each prompt. temperature 0 is greedy; seeds are then not used. A full context ends a text, too."""
    began, device = monotonic(), model.device
    choose = _Choose(temperature, top_p, seeds or [0] * len(prompts), device)
    limit = _limits(model, prompts, max_new_tokens)
    # several samples of one problem: its prompt is read once
    distinct = {prompt: place for place, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    which = torch.tensor([distinct[tuple(prompt)] for prompt in prompts], device=device)
    ids, mask, position, cache = _begin(model, list(distinct), min(end))
    texts: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    while True:
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache, logits = out.past_key_values, out.logits[:, -1]
        if len(logits) < len(rows):
            logits, mask, position = logits[which], mask[which], position[which]
            cache.batch_select_indices(which)
        chosen = choose(logits, rows)
        if watch is not None:
            watch(rows, logits, chosen)
        going = [_grow(texts[row], token, end, limit[row]) for row, token in zip(rows, chosen.tolist(), strict=True)]
        if not any(going):
            break
        ids, position = chosen[:, None], position[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        if 4 * sum(going) <= 3 * len(going):
            stay = torch.tensor([place for place, goes in enumerate(going) if goes], device=device)
            ids, position, mask = ids[stay], position[stay], mask[stay]
            cache.batch_select_indices(stay)
            rows = [rows[place] for place in stay.tolist()]
    seconds = (monotonic() - began) / len(prompts)
    return [Text(text, "stop" if text[-1] in end else "length", seconds) for text in texts]


def _grow(text: list[int], token: int, end: set[int], limit: int) -> bool:
    """Appends the token unless the text is finished; -> whether it goes on."""
    if len(text) < limit and not (text and text[-1] in end):
        text.append(token)
    return len(text) < limit and text[-1] not in end


def context_of(model: PreTrainedModel) -> float:
    """How many tokens the model was made for; infinite where its config does not say."""
    return model.config.get_text_config().to_dict().get("max_position_embeddings") or float("inf")


def check_ids(model: PreTrainedModel, texts: Sequence[Sequence[int]]) -> None:
    """Raises ValueError for an id that the model has no embedding for: its tokenizer has been enlarged or exchanged."""
    embeddings, most = model.get_input_embeddings(), max(map(max, texts))
    rows = len(embeddings.weight)  # type: ignore[arg-type] # an Embedding, whatever the annotation says
    if most >= rows:
        raise ValueError(
            f"a text holds token {most} and the model has embeddings for {rows}: its tokenizer is another's; take the "
            "tokenizer that the model was trained with, or resize the model's embeddings to it"
        )


def check_scored(model: PreTrainedModel, texts: Sequence[Sequence[int]]) -> None:
    """Before a text is read: beyond its context a model's distributions are noise."""
    if not texts:
        return
    check_ids(model, texts)
    context, longest = context_of(model), max(map(len, texts))
    if longest > context:
        raise ValueError(
            f"a prompt with its solution has {longest} tokens and the model's context is {context}: set fewer "
            "prompt.shots, or leave out the longest problems"
        )


def _limits(model: PreTrainedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[int]:
    """How many tokens each text may have: beyond its context a model writes noise."""
    context, longest = context_of(model), max(map(len, prompts))
    check_ids(model, prompts)
    if longest >= context:
        raise ValueError(
            f"a prompt has {longest} tokens and the model's context is {context}: set fewer prompt.shots, or leave "
            "out the longest problems"
        )
    return [int(min(max_new_tokens, context - len(prompt))) for prompt in prompts]
