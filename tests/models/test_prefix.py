"""What rows of a batch begin with is read once: the same hidden rows, the same gradients, fewer places."""

from __future__ import annotations

from copy import deepcopy
from zlib import crc32

import numpy as np
import pytest
import torch
from conftest import traces
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Gemma3TextConfig, MistralConfig, Qwen3Config
from transformers.models.llama import LlamaConfig

from ekd.data.collate import Collate
from ekd.models.generation import generate
from ekd.models.lora import Lora
from ekd.models.prefix import Tree, can_share, keeps_keys
from ekd.models.reader import hidden_where, response_hidden

SMALL = {
    "vocab_size": 272, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 4096, "tie_word_embeddings": True,
}  # fmt: skip
SLIDING = ["sliding_attention"]
CONFIGS = {
    "llama": LlamaConfig(**SMALL),
    "qwen3": Qwen3Config(**SMALL),
    "mistral": MistralConfig(**SMALL, sliding_window=16),
    "gemma3": Gemma3TextConfig(**SMALL, sliding_window=16, layer_types=[*SLIDING, "full_attention", *SLIDING]),
}  # fmt: skip
PAD, NEVER = 0, 271


def text(seed: object, size: int) -> list[int]:
    """The same ids for the same seed, a longer text going on where a shorter one ends."""
    return np.random.default_rng(crc32(repr(seed).encode())).integers(1, 256, 999)[:size].tolist()


# Prompts by what they are made of, and how many ids their responses have.
BATCHES = {
    "examples": [(text("shots", 60) + text(i, 5 + i), 9 - i) for i in range(6)],
    "samples": [(text("system", 4) + text(i // 4, 40), 5 + i) for i in range(8)],
    "samples of unlike problems": [(text("system", 4) + text(i // 4, 40 + 9 * (i // 4)), 12 + i % 4) for i in range(8)],
    "examples and samples": [(text("shots", 120) + text(i // 4, 50), 5 + i) for i in range(8)],
    "groups of 5, 2 and 1": [(text(group, 50), 6) for group in (0, 1, 0, 0, 2, 0, 1, 0)],
    "one without": [(text("shots" if i else "other", 80) + text(i, 6), 6) for i in range(8)],
    "a short one without": [([] if i == 3 else text("shots", 80)) + text(i, 6) for i in range(8)],
    "a long text without": [(text("shots", 80) + text(i, 6), 6) if i - 3 else (text(i, 6), 80) for i in range(8)],
    "equal": [(text(0, 30), 4)] * 4,
    "one the beginning of another": [(text(0, 30 + 2 * i), 8) for i in range(4)],
}
BATCHES["a short one without"] = [(prompt, 6) for prompt in BATCHES["a short one without"]]  # type: ignore[misc]


def model_of(name: str, attention: str = "sdpa"):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(deepcopy(CONFIGS[name]), attn_implementation=attention)


def padded(rows) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Tree]:
    """ids, positions, mask of what predicts a response id, and the tree. rows: (prompt, response ids) pairs."""
    whole = [prompt + text(("response", place), size) for place, (prompt, size) in enumerate(rows)]
    texts, prefixes = [one[:-1] for one in whole], [prompt[:-1] for prompt, _ in rows]
    width = max(map(len, texts))
    ids = torch.tensor([one + [PAD] * (width - len(one)) for one in texts])
    column = torch.arange(width).expand_as(ids)
    ends, begins = (torch.tensor([len(x) for x in many])[:, None] for many in (texts, prefixes))
    return ids, column, (column >= begins) & (column < ends), Tree(prefixes, [len(one) for one in texts])


def counting(decode, places: list[int]):
    def counted(**inputs):
        places.append(inputs["input_ids"].numel())
        return decode(**inputs)

    return counted


def read(model, rows, *, share: bool):
    """-> hidden rows, the gradients of a sum that gives every number a weight of its own, and places read."""
    model.zero_grad()
    ids, positions, mask, tree = padded(rows)
    places: list[int] = []
    hidden = hidden_where(counting(model.get_decoder(), places), ids, positions, mask, tree.chains() if share else ())
    (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    assert not share or not tree.cuts or sum(places) == tree.places(tree.cuts)
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return hidden.detach(), gradients, sum(places)


def check(model, rows) -> float:
    """That reading once changes nothing. -> the share of the places that was read."""
    whole, wanted, all_places = read(model, rows, share=False)
    once, found, places = read(model, rows, share=True)
    torch.testing.assert_close(once, whole, atol=1e-5, rtol=1e-4)
    assert found.keys() == wanted.keys()
    for part, gradient in wanted.items():
        assert (found[part] - gradient).abs().max() <= 2e-6 * gradient.abs().max(), part
    return places / all_places


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("rows", BATCHES)
def test_hidden_rows_and_gradients_are_those_of_reading_every_row_whole(rows, name, attention):
    model = model_of(name, attention)
    assert can_share(model)
    assert check(model, BATCHES[rows]) <= 0.75


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 20), st.integers(0, 2), st.integers(1, 12), st.integers(0, 8)),
        min_size=1,
        max_size=9,
    ).filter(lambda rows: any(response for *_, response in rows))
)
def test_whatever_rows_have_in_common_nothing_changes(made):
    """Rows of an example text and a problem text, cut anywhere; empty responses; one row; rows of one id."""
    rows = [(text(("shots", a), b) + text(("problem", c), d), response) for a, b, c, d, response in made]
    assert check(model_of("llama"), rows) <= 1


def test_so_many_places_are_read():
    """By hand, so that reading once cannot be lost without anybody's noticing."""
    model = model_of("llama")

    def places(rows) -> list[int]:
        ids, positions, mask, tree = padded(BATCHES[rows])
        seen: list[int] = []
        hidden_where(counting(model.get_decoder(), seen), ids, positions, mask, tree.chains())
        return seen

    assert places("examples") == [60, 6 * 13]
    assert places("samples") == [2 * 43, 8 * 12]
    assert places("examples and samples") == [120, 2 * 49, 8 * 12]
    assert places("groups of 5, 2 and 1") == [3 * 49, 8 * 6]
    assert places("one without") == [2 * 80, 8 * 11]
    assert places("a short one without") == [80, 7 * 11, 11]
    assert places("a long text without") == [80, 7 * 11, 85]
    assert places("equal") == [29, 4 * 4]


def test_what_is_shared_is_never_a_place_that_predicts():
    """Prompts that are one the beginning of another, or equal: the last id of each has to be read for its own row."""
    one, two = traces(2)
    long = one._replace(prompt_ids=np.array([*text("shots", 60), *one.prompt_ids]))
    for made in ([long, long], [long, long._replace(prompt_ids=np.array([*long.prompt_ids, 7, 8, 9]))]):
        batch = Collate(272)(made)
        ((*begun, _own),) = batch.shared
        assert begun and not batch.mask[:, : begun[-1][0]].any()
    assert Collate(272)([long]).shared == () and Collate(272, packing=True)([long, long]).shared == ()
    assert Collate(272)([one, two]).shared == ()  # not enough in common


def test_a_batch_of_traces_shares_by_itself():
    shots, model, seen = text("shots", 60), model_of("llama"), []
    made = [t._replace(prompt_ids=np.array([*shots, *t.prompt_ids])) for t in traces(6)]
    batch = Collate(272)(made)
    once = response_hidden(counting(model.get_decoder(), seen), batch)
    whole = response_hidden(model.get_decoder(), batch, share=False)
    torch.testing.assert_close(once, whole, atol=1e-5, rtol=1e-4)
    assert len(once) == len(batch.rows.target) and sum(seen) < 0.75 * batch.input_ids.numel()


def test_it_is_done_where_it_pays_and_where_it_is_the_same():
    assert Tree([text(0, 99)], [120]).cuts == [] and Tree([text(0, 20)] * 8, [99] * 8).cuts == []
    model = model_of("llama")
    assert can_share(model)
    for dropout in (0.0, 0.1):
        adapted = model_of("llama")
        Lora(r=2, alpha=4, dropout=dropout, targets="all-linear").attach(adapted)
        assert can_share(adapted) == (dropout == 0)
    model.gradient_checkpointing_enable()
    assert not can_share(model)
    mixed = model_of("qwen3")
    mixed.config.layer_types = ["linear_attention", "full_attention", "full_attention"]
    assert not can_share(mixed) and not keeps_keys(mixed)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("rows", BATCHES)
def test_texts_are_those_of_every_prompt_alone(rows, name):
    """Also where a window of attention would count what pads a batch."""
    model, asked = model_of(name).eval(), [prompt for prompt, _ in BATCHES[rows]]

    def written(prompts, seeds):
        said: dict[int, list[torch.Tensor]] = {}

        def watch(rows, logits, _):
            for row, z in zip(rows, logits, strict=True):
                said.setdefault(row, []).append(z.clone())

        texts = generate(model, prompts, end={NEVER}, max_new_tokens=3, temperature=1.0, seeds=seeds, watch=watch)
        return [torch.stack(said[row][: len(text.ids)]) for row, text in enumerate(texts)]

    together = written(asked, list(range(len(asked))))
    for seed, (prompt, found) in enumerate(zip(asked, together, strict=True)):
        torch.testing.assert_close(found, written([prompt], [seed])[0], atol=1e-5, rtol=1e-4)


def test_prompts_are_read_once_in_generation():
    def places(rows, name: str = "llama") -> list[int]:
        model, seen = model_of(name).eval(), []
        model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numel()))
        generate(model, [prompt for prompt, _ in BATCHES[rows]], end={NEVER}, max_new_tokens=1)
        return seen

    assert places("examples") == [60, 6 * 10]
    assert places("samples") == places("samples", "gemma3") == [2 * 44]  # of each problem once
    assert places("examples and samples") == [120, 2 * 50]
    assert places("one without") == [2 * 80, 8 * 6]
    assert places("a short one without") == [80, 8 * 6]
    assert places("equal") == [30]
    assert places("examples", "gemma3") == [6 * 70]  # a window would count the padding behind the examples
