"""A random Llama of 2 layers with a byte tokenizer, made in memory from a seed: what tests and first tries need."""

from __future__ import annotations

import re

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def is_tiny(name: str) -> bool:
    return re.fullmatch(r"tiny(:\d+)?", name) is not None


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that every text has ids and nothing has to be downloaded."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",  # as the embedded model has it: a pad equal to the end token must hide nothing
        chat_template=CHATML,
    )


def tiny_config() -> LlamaConfig:
    tokenizer = tiny_tokenizer()
    return LlamaConfig(
        vocab_size=272,  # more rows than the tokenizer has tokens, as in the Qwen family
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,  # large enough for peaked, varied distributions
    )


def tiny_model(name: str) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(name.partition(":")[2] or 0))
        model: PreTrainedModel = AutoModelForCausalLM.from_config(tiny_config(), dtype=torch.float32)
        return model
