"""Whether a token is text, and not one that a chat template is made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from ekd.types import Rows


@dataclass(frozen=True, kw_only=True)
class Ordinary:
    """1, but 0 where the token that came next is one of the tokenizer's special tokens. end: the token that closes the
    answer counts as text, so that the student learns to stop. Meant for selector=threshold.

        [y_t is no special token],  and 1 at the end of the answer with end

    Source: after a summary of arXiv 2603.25562, which masks special tokens and prices by truncated reverse KL
    (loss=reverse_kl student.tail=truncate). Keeping the end is ours; neither the paper nor its abstract was read.
    """

    needs_student: ClassVar[bool] = False
    tokenizer: str
    end: bool
    trust_remote_code: bool

    def __call__(self, rows: Rows) -> Tensor:
        """-> (R,) 0 or 1."""
        special = specials(self.tokenizer, self.trust_remote_code).to(rows.target.device)
        text = ~torch.isin(rows.target, special)
        return (text | rows.end if self.end else text).to(rows.teacher_logprobs.dtype)


@lru_cache(maxsize=4)
def specials(tokenizer: str, trust_remote_code: bool) -> Tensor:
    """The ids that a tokenizer calls special."""
    from ekd.models.load import load_tokenizer  # transformers takes seconds to import, and this is its only use here

    source = load_tokenizer(tokenizer, trust_remote_code=trust_remote_code)
    added = {i for i, token in source.added_tokens_decoder.items() if token.special}
    return torch.tensor(sorted(added | set(source.all_special_ids)), dtype=torch.long)
