"""A model whose tokenizer is another than `tiny`'s, in a folder."""

from __future__ import annotations

from pathlib import Path

import torch
from families import CORPUS, trained
from transformers import AutoModelForCausalLM, LlamaConfig

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
WORDS = [*CORPUS, *("What is the sum of 3 and 4? How many are 12 times 5? The answer is \\boxed{60}.",) * 4]


def stranger(folder: Path, seed: int = 0, size: int = 400) -> str:
    """-> the folder's name. BPE with numbers in groups of three, another template, another end."""
    tokenizer = trained(WORDS, size, 3)
    tokenizer.chat_template = TEMPLATE
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer) + 5,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.3,
        )
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
