"""head_of against the logits that transformers and peft make themselves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_loss import LOSSES
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ekd.models.head import check_head, distill, head_of
from ekd.models.load import load_model

SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
WIDE = {**GROUPED, "head_dim": 8}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # peft is talkative
IDS = torch.tensor([[5, 9, 60, 1, 7]])
FAMILIES = {
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": {**WIDE, "tie_word_embeddings": True},
    "mistral": WIDE,
    "phi": SMALL,  # has a bias
    "gpt2": {"vocab_size": 61, "n_embd": 32, "n_layer": 1, "n_head": 4},
    "opt": {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 16},
    "gemma2": {**WIDE, "final_logit_softcapping": 0.5},
    "gemma3_text": {**WIDE, "final_logit_softcapping": None},
    "recurrent_gemma": {
        **SMALL,
        "logits_soft_cap": 0.5,
        "num_hidden_layers": 2,
        "block_types": ["recurrent", "attention"],
    },
    "cohere": {**GROUPED, "logit_scale": 0.3},
    "falcon_h1": {**GROUPED, "lm_head_multiplier": 0.3, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_state": 8},
    "granite": {**GROUPED, "logits_scaling": 3.0},
    "hyperclovax": {**GROUPED, "logits_scaling": 3.0},
}


def make(name: str, **values) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **values)).eval()


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_logits_are_the_models(name: str) -> None:
    model = make(name, **FAMILIES[name])
    check_head(model)
    hidden = model.get_decoder()(input_ids=IDS, use_cache=False).last_hidden_state
    head = head_of(model)
    logits = F.linear(hidden, head.weight, head.bias) * head.scale
    if head.softcap:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    torch.testing.assert_close(logits, model(IDS, use_cache=False).logits)


def test_a_head_that_does_more_is_refused() -> None:
    with pytest.raises(ValueError, match="head of a bert model is more than a matrix product"):
        check_head(make("bert", **SMALL, is_decoder=True))


def lora(**options):
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, lora_alpha=12, **{"target_modules": ["q_proj", "lm_head"], **options})
    model = peft.get_peft_model(load_model("tiny"), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)  # LoRA starts with 0, which would hide a mistake
    return model


def rows(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Five rows of a random teacher."""
    log_p, ids = torch.randn(len(logits), logits.shape[1], generator=torch.Generator().manual_seed(2)).topk(8)
    return ids, torch.cat([log_p, torch.zeros(len(logits), 1)], 1).log_softmax(1), torch.ones(len(logits))


def priced(model: PreTrainedModel) -> Tensor:
    hidden = model.get_decoder()(input_ids=IDS, use_cache=False).last_hidden_state[0]
    ids, log_p, weight = rows(model(input_ids=IDS).logits[0].detach())
    return distill(hidden, head_of(model), ids, log_p, weight, LOSSES["forward_kl"], budget_mb=0.01)[0]


def plain(model: PreTrainedModel) -> Tensor:
    log_q = model(input_ids=IDS).logits[0].log_softmax(1)
    ids, log_p, weight = rows(log_q.detach())
    tail = log_q.scatter(1, ids, -torch.inf).logsumexp(1, keepdim=True)
    return (weight * LOSSES["forward_kl"](log_p, torch.cat([log_q.gather(1, ids), tail], 1))).sum()


@pytest.mark.parametrize("options", [{}, {"target_modules": ["q_proj"]}, {"use_rslora": True}])
def test_lora_trains_the_distillation_loss_and_only_its_adapters(options: dict) -> None:
    model = lora(**options).eval()
    total = priced(model)
    torch.testing.assert_close(total, plain(model))
    total.backward()
    have = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    plain(model).backward()
    for name, parameter in model.named_parameters():
        assert (have[name] is not None) == ("lora_" in name)
        if have[name] is not None:
            assert have[name].abs().sum() > 0
            torch.testing.assert_close(have[name], parameter.grad)


def test_modules_to_save_trains_its_own_copy_of_the_head() -> None:
    model = lora(target_modules=["q_proj"], modules_to_save=["lm_head"]).eval()
    with torch.no_grad():
        head_of(model).weight.add_(0.1)
    torch.testing.assert_close(priced(model), plain(model))
    priced(model).backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert any("modules_to_save" in name for name in trained) and not any("original_module" in name for name in trained)


def test_lora_dropout_acts_in_training_alone() -> None:
    model = lora(lora_dropout=0.5, target_modules=["lm_head"])
    assert head_of(model.train()).adapters[0].dropout == 0.5
    assert priced(model) != priced(model)
    assert head_of(model.eval()).adapters[0].dropout == 0
    torch.testing.assert_close(priced(model), plain(model))


def test_a_disabled_or_merged_adapter_is_not_added_twice() -> None:
    model = lora().eval()
    with model.disable_adapter():
        torch.testing.assert_close(priced(model), plain(model))
    model.merge_adapter()
    torch.testing.assert_close(priced(model), plain(model))


def test_dora_on_the_head_is_refused() -> None:
    with pytest.raises(ValueError, match="plain LoRA"):
        head_of(lora(use_dora=True))
