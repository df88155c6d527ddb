"""Several sequences in one row are each alone: same hidden rows, same loss, same gradients as unpacked."""

from __future__ import annotations

from itertools import pairwise

import lightning as L
import pytest
import torch
from conftest import hf, traces
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data import data
from test_student import student
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, MambaConfig, MistralConfig, Qwen3Config

from ekd.data.batch_sampler import Batches, fill
from ekd.data.collate import Collate
from ekd.models.load import check_borders
from ekd.selector.bucket import Bucket

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 272,
}
KEYS = {"num_key_value_heads": 2, "head_dim": 8}
FAMILIES = {
    "qwen3": Qwen3Config(**SIZES, **KEYS),
    "mistral, a window of 8": MistralConfig(**SIZES, **KEYS, sliding_window=8),
    "gemma2, windows and soft caps (eager only)": Gemma2Config(**SIZES, **KEYS, sliding_window=8),
    "gpt2, learned positions": GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=272),
}


def made(count: int = 5):
    return traces(count, teacher=hf(max_new_tokens=30))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_hidden_rows_loss_and_gradients_are_those_of_each_sequence_alone(attention):
    packed, padded = Collate(272, packing=True)(made()), Collate(272)(made())
    assert packed.input_ids.shape == (1, int(padded.attention_mask.sum()))
    ours, theirs, alone = (
        student(attention=attention, selector=Bucket(lower=30, upper=90, scope="sequence")) for _ in "123"
    )
    torch.testing.assert_close(ours.hidden(packed), theirs.hidden(padded), atol=1e-5, rtol=1e-5)
    rows = torch.cat([alone.hidden(Collate(272)([trace])) for trace in made()])
    torch.testing.assert_close(ours.hidden(packed), rows, atol=1e-5, rtol=1e-5)
    a, b = ours.training_step(packed, 0), theirs.training_step(padded, 0)
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-5)
    a.backward()
    b.backward()
    for ours_p, theirs_p in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(ours_p.grad, theirs_p.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "attention"),
    [(f, a) for f in FAMILIES for a in ("sdpa", "eager") if "eager only" not in f or a == "eager"],
)
def test_other_families_see_the_borders_too(family, attention):
    torch.manual_seed(0)
    module = student()
    module.model = AutoModelForCausalLM.from_config(FAMILIES[family], attn_implementation=attention).eval()
    module.decode = module.model.get_decoder().__call__
    check_borders(module.model, module.decode, attention)
    rows = module.hidden(Collate(272, packing=True)(made(3)))
    torch.testing.assert_close(rows, module.hidden(Collate(272)(made(3))), atol=1e-5, rtol=1e-4)


def test_a_model_whose_state_runs_across_borders_is_refused_in_a_sentence():
    mamba = AutoModelForCausalLM.from_config(
        MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=272, state_size=4)
    )
    with pytest.raises(ValueError, match=r"data.packing=true: .* set data.packing=false"):
        check_borders(mamba, mamba.get_decoder(), "sdpa")


def test_training_asks_for_the_borders_before_its_first_step(monkeypatch):
    asked = []
    monkeypatch.setattr("ekd.distill.student.check_borders", lambda *a: asked.append(a) or check_borders(*a))
    module = student()
    del module.log
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = L.Trainer(accelerator="cpu", max_steps=2, limit_val_batches=0, use_distributed_sampler=False, **quiet)
    trainer.fit(module, data(packing=True))
    assert len(asked) == 1 and trainer.global_step == 2 and module.supervised > 0


def test_every_response_token_of_a_packed_row_is_predicted_once_from_its_own_sequence():
    batch = Collate(272, packing=True)(made())
    starts = [*(batch.position_ids[0] == 0).nonzero()[:, 0].tolist(), batch.input_ids.shape[1]]
    assert len(starts) == 6 and batch.attention_mask.all()
    for trace, (start, stop) in zip(made(), pairwise(starts), strict=True):
        text, first = [*trace.prompt_ids, *trace.response_ids], len(trace.prompt_ids) - 1
        assert batch.input_ids[0, start:stop].tolist() == text[:-1]
        assert batch.position_ids[0, start:stop].tolist() == list(range(stop - start))
        assert batch.mask[0, start:stop].tolist() == [t >= first for t in range(stop - start)]
        assert batch.target_ids[0, start + first : stop].tolist() == text[first + 1 :]
    assert batch.rows.sequence.tolist() == [i for i, t in enumerate(made()) for _ in t.response_ids]


@settings(deadline=None, max_examples=50)
@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=80), budget=st.integers(50, 200))
def test_rows_are_filled_within_the_budget_and_hold_everything_once(lengths, budget):
    rows = fill(range(len(lengths)), lengths, budget)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    loads = [sum(lengths[i] for i in row) for row in rows]
    assert max(loads) <= budget
    assert sum(load <= budget / 2 for load in loads) <= 1  # two half-empty rows would have been one


def test_packed_batches_waste_less_than_padded_ones():
    lengths = torch.randint(20, 400, (1000,), generator=torch.Generator().manual_seed(0)).tolist()
    assert len(Batches(lengths, max_tokens=2048, seed=0, packing=True)) < len(Batches(lengths, max_tokens=2048, seed=0))
    assert sum(lengths) > 0.98 * 2048 * len(Batches(lengths, max_tokens=2048, seed=0, packing=True))
