"""A cache with room: the numbers of the one that grows by a new tensor at every token, to the last bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from ekd.models import generation
from ekd.models.generation import generate
from ekd.models.keys import ROOM, Roomy, roomy_cache
from ekd.models.prefix import keeps_keys
from ekd.models.tiny import tiny_model


def states(n: int, rows: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(rows, 2, n, 8, generator=torch.Generator().manual_seed(seed))


def test_what_is_kept_is_what_was_given_whoever_leaves_and_whenever_the_room_ends() -> None:
    roomy, plain = Roomy(), DynamicCache().layer_class_to_replicate()
    rows, places = 3, set()
    for step, n in enumerate([5, *[1] * (ROOM + 3), 70, *[1] * 9]):
        for cache in (roomy, plain):
            cache.update(states(n, rows, step), states(n, rows, 1000 + step))
        assert torch.equal(roomy.keys, plain.keys) and torch.equal(roomy.values, plain.values)
        assert roomy.get_seq_length() == plain.get_seq_length()
        places.add(roomy.keys.data_ptr())
        if step in (7, 40):  # one leaves, then two texts become four
            chosen = torch.tensor([0, 2]) if step == 7 else torch.tensor([0, 0, 1, 1])
            rows = len(chosen)
            for cache in (roomy, plain):
                cache.batch_select_indices(chosen)
    assert len(places) <= 6, "a token is written behind the others, and not all of them anew"


def test_under_autocast_keys_are_rounded_once_and_to_the_same_numbers() -> None:
    roomy = Roomy()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        keys, values = roomy.update(states(4), states(4, seed=1))
        roomy.update(states(1), states(1))
    assert keys.dtype == values.dtype == roomy.keys.dtype == torch.bfloat16
    assert torch.equal(keys, states(4).bfloat16()) and torch.equal(roomy.keys[:, :, :4], states(4).bfloat16())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_texts_and_logits_are_those_of_the_librarys_cache(
    attention: str, autocast: bool, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts with a common beginning, several samples of one, texts that end early: all that moves rows about."""
    model = tiny_model("tiny").eval()
    model.set_attn_implementation(attention)
    shared = list(range(5, 35))
    prompts = [[*shared, 3, 4], [*shared, 7], [*shared, 7], [*shared, 9, 9, 9], [*shared, 11]]

    def written() -> tuple[list[list[int]], list[Tensor]]:
        seen: list[Tensor] = []
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            texts = generate(
                model,
                prompts,
                end={0, 1, 2, 3, 4},
                max_new_tokens=90,
                temperature=temperature,
                seeds=[1, 2, 3, 4, 5],
                watch=lambda rows, logits, chosen: seen.append(logits.clone()),
            )
        return [text.ids for text in texts], seen

    ids, logits = written()
    assert isinstance(roomy_cache(model).layers[0], Roomy)
    monkeypatch.setattr(generation, "roomy_cache", lambda model: None)
    own_ids, own_logits = written()
    assert ids == own_ids and len(logits) == len(own_logits) > 1
    assert all(torch.equal(one, other) for one, other in zip(logits, own_logits, strict=True))


def test_rows_that_leave_are_not_kept_and_doubles_stay_doubles() -> None:
    roomy = Roomy()
    roomy.update(states(4), states(4))
    roomy.batch_select_indices(torch.tensor([1]))
    assert roomy.rooms == (None, None) and torch.equal(roomy.keys, states(4)[[1]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        keys, _ = Roomy().update(states(2).double(), states(2).double())
    assert keys.dtype == torch.float64


def test_layers_that_see_a_window_and_models_that_remember_otherwise_keep_their_own() -> None:
    model = tiny_model("tiny")
    config = model.config
    config.sliding_window, config.layer_types = 8, ["full_attention", "sliding_attention"]
    kinds = [type(layer).__name__ for layer in roomy_cache(model).layers]
    assert kinds == ["Roomy", "DynamicSlidingWindowLayer"]
    config.layer_types = ["full_attention", "linear_attention"]
    assert not keeps_keys(model) and roomy_cache(model) is None
