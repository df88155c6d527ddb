"""What a token is, by its text: a digit, an operator, a word, punctuation or something else."""

from __future__ import annotations

import string

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

KINDS = ("digits", "operators", "words", "punctuation", "other")


def kind_of(token: str) -> str:
    text = token.strip()
    if not text:
        return "other"
    if text.isdigit():
        return "digits"
    if all(c in "+-*/=<>^%×÷±≤≥≈" for c in text):
        return "operators"
    if any(c.isalpha() for c in text):
        return "words"
    return "punctuation" if all(c in string.punctuation for c in text) else "other"


def token_texts(tokenizer: PreTrainedTokenizerBase, vocab: int) -> list[str]:
    """The text of every entry of a softmax; a head may have more rows than the tokenizer has tokens."""
    return [str(tokenizer.decode([i])) if i < len(tokenizer) else "" for i in range(vocab)]


def kind_table(texts: list[str]) -> Tensor:
    """(V,) index into KINDS."""
    return torch.tensor([KINDS.index(kind_of(text)) for text in texts])
