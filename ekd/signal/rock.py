"""Token types that stay dear however long they are trained on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ekd.models.ranks import total
from ekd.models.rows import kl
from ekd.signal.view import log_p, log_q, student
from ekd.types import Rows


class Rock(nn.Module):
    """0 for the tokens of the `count` types that cost most in all, beside the `spare` most frequent types, 1 for the
    others. Meant for selector=threshold, which leaves the rocks out.

        [y_t is no rock],  rocks: the largest C(y) = frequency times mean cost,  y not among the most frequent
        C(y) <- decay C(y) + sum of KL(q, p) over the rows of a micro-batch with y, chosen or not

    Before `patience` micro-batches there is no rock: in the beginning all is dear. Memory of `size` ids is in buffers:
    checkpoints carry it, and on several ranks it holds the rows of all. A rock left out is still measured, and may
    cease to be one.

    Source: Jiang et al. 2026, "Cornerstones or Stumbling Blocks? Deciphering the Rock Tokens in On-Policy
    Distillation", arXiv 2605.09253; read: its abstract and how the authors' code ranks (100 types, 5 spared, once after
    training). Ranking while training is ours.
    """

    needs_student = True
    needs_density = True
    costs: Tensor
    steps: Tensor

    def __init__(self, *, count: int, spare: int, decay: float, patience: int, size: int) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay}: a moving sum needs 0 <= decay < 1, for example signal.decay=0.99.")
        if min(count, patience, size) < 1 or spare < 0:
            raise ValueError(
                f"count={count}, patience={patience}, size={size}, spare={spare}: the first three are 1 or more, spare "
                "is 0 or more."
            )
        self.count, self.spare, self.decay, self.patience, self.size = count, spare, decay, patience, size
        # cost and rows of each type; float32 kept as its bits: trainer.precision=bf16-true rounds floating buffers
        self.register_buffer("costs", torch.zeros(2, size, dtype=torch.int32))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, rows: Rows) -> Tensor:
        """-> (R,) 0 or 1."""
        self._check(rows)
        soft: Tensor = ~torch.isin(rows.target, self.rocks())
        return soft.to(rows.teacher_logprobs.dtype)

    def rocks(self) -> Tensor:
        """The ids of the rocks, the dearest first."""
        spent, times = self.costs.view(torch.float32)
        if int(self.steps) < self.patience:
            return self.costs.new_empty(0)
        often = times.topk(min(self.spare, self.size)).indices
        spent = spent.index_fill(0, often, 0.0)
        dear: Tensor = spent.topk(min(self.count, self.size)).indices
        return dear[spent[dear] > 0]

    def learn(self, rows: Rows, weight: Tensor, price: Tensor) -> None:
        """rows (R,) with the student filled. Collective: every rank calls it, also with no rows."""
        self._check(rows)
        cost = kl(log_q(rows), log_p(rows)).double()
        sums = torch.zeros(2, self.size, dtype=torch.float64, device=cost.device)
        sums.index_add_(1, rows.target, torch.stack([cost, torch.ones_like(cost)]))
        costs = self.costs.view(torch.float32)
        costs.copy_(self.decay * costs + total(sums))
        self.steps += 1

    def _check(self, rows: Rows) -> None:
        student(rows)  # it will be asked for the KL of these rows
        if rows.vocab > self.size:
            raise ValueError(
                f"signal.size={self.size} ids are remembered and the vocabulary has {rows.vocab}: set "
                f"signal.size={rows.vocab}"
            )

    def extra_repr(self) -> str:
        return f"count={self.count}, spare={self.spare}, decay={self.decay}, patience={self.patience}, size={self.size}"
