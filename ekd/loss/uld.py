"""Universal logit distillation: sorted probabilities, whoever they belong to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ULD:
    """A control for teachers of another family: it compares how probabilities fall and forgets which token has which,
    so it is 0 for every permutation of p.

        sum_i |p_(i) - q_(i)| + |p_tail - q_tail|,  p_(1) >= p_(2) >= ... of the ids that the row names

    As published both sides are sorted over their whole vocabularies, and rows are paired by their number. Here a row is
    of the student's own token, and of the student only the named ids and the tail are seen, the tail unsorted.

    Source: Boizard et al. 2024, "Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for LLMs",
    arXiv 2402.12030.
    """

    def __call__(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """(N, K+1), (N, K+1) -> (N,) between 0 and 2."""
        p, q = log_p.exp(), log_q.exp()
        sides = [torch.cat([x[:, :-1].sort(-1, descending=True).values, x[:, -1:]], -1) for x in (p, q)]
        return (sides[0] - sides[1]).abs().sum(-1)
