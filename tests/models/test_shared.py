"""A beginning that all rows of a batch share is read once: the same hidden rows, the same gradients, fewer places."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import traces
from transformers import AutoModelForCausalLM, Gemma3TextConfig, Qwen3Config
from transformers.models.llama import LlamaConfig

from ekd.data.collate import Collate
from ekd.models.lora import Lora
from ekd.models.reader import can_share, response_hidden, worth_sharing

SMALL = {
    "vocab_size": 272, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 4096, "tie_word_embeddings": True,
}  # fmt: skip
SLIDING = ["sliding_attention"]
CONFIGS = {
    "llama": LlamaConfig(**SMALL),
    "qwen3": Qwen3Config(**SMALL),
    "gemma3": Gemma3TextConfig(**SMALL, sliding_window=16, layer_types=[*SLIDING, "full_attention", *SLIDING]),
}  # fmt: skip


def batch_of(begin: int, count: int = 6):
    """Texts of different lengths behind a common beginning of so many tokens."""
    stream = torch.Generator().manual_seed(0)
    head = torch.randint(0, 256, (begin,), generator=stream).numpy()
    made = [
        t._replace(prompt_ids=torch.tensor([*head, *t.prompt_ids[-5 - i :]]).numpy())
        for i, t in enumerate(traces(count))
    ]
    return Collate(272)(made)


def model_of(name: str, attention: str = "sdpa"):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation=attention)


def read(model, batch, share: bool):
    """-> hidden rows and the gradients of a sum that gives every number a weight of its own."""
    model.zero_grad()
    hidden = response_hidden(model.get_decoder().__call__, batch, share=share)
    (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    return hidden.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CONFIGS)
def test_hidden_rows_and_gradients_are_those_of_reading_every_row_whole(name, attention):
    model, batch = model_of(name, attention), batch_of(60)
    assert batch.shared >= 60 and worth_sharing(batch) and can_share(model)
    whole, wanted = read(model, batch, share=False)
    once, found = read(model, batch, share=True)
    torch.testing.assert_close(once, whole, atol=1e-5, rtol=1e-4)
    assert found.keys() == wanted.keys()
    for part, gradient in wanted.items():
        assert (found[part] - gradient).abs().max() <= 2e-6 * gradient.abs().max(), part


def test_so_many_places_are_not_read_again():
    model, batch, places = model_of("llama"), batch_of(60), []

    def decode(**inputs):
        places.append(inputs["input_ids"].numel())
        return model.get_decoder()(**inputs)

    response_hidden(decode, batch)
    rows, columns = batch.input_ids.shape
    assert places == [batch.shared, rows * (columns - batch.shared)]


def test_what_is_shared_is_never_a_place_that_predicts():
    """Prompts that are one the beginning of another, or equal: the last of each has to be read for its own row."""
    one, two = traces(2)
    for batch in (
        Collate(272)([one, one]),
        Collate(272)([one, two._replace(prompt_ids=np.array([*one.prompt_ids, 7, 8, 9]))]),
        Collate(272)([one]),
    ):
        assert not batch.mask[:, : batch.shared].any()
    assert Collate(272)([one, one]).shared == len(one.prompt_ids) - 1
    assert Collate(272, packing=True)([one, one]).shared == 0


def test_it_is_done_where_it_pays_and_where_it_is_the_same():
    assert not worth_sharing(batch_of(60, count=1)) and not worth_sharing(batch_of(0))
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
    assert not can_share(mixed)
