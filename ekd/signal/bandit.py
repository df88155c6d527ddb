"""A signal that finds out for itself which rows are worth learning."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ekd.models.ranks import total
from ekd.models.rows import kl
from ekd.signal.view import log_p, log_q, student_ce, teacher_ce
from ekd.types import Rows

FEATURES = 6
CLASSES = {"words": 0, "digits": 1, "punctuation": 2, "operators": 2, "other": 3}  # by `ekd.models.token_kinds`


class Bandit(nn.Module):
    """LinUCB: the reward that a linear model expects from choosing a row, plus a bonus for contexts it knows little
    about.

        s_t = theta . x_t + explore sqrt(x_t A^-1 x_t),  theta = A^-1 b,
        x_t = [H(p_t), CE_t, CE_s, KL(p_t, q_t), t / n, token class]
        A <- A + x x,  b <- b + r x,  r = KL before - KL after the step, within +-clip, for each chosen row

    Token class: letters 0, digits 1/3, punctuation 2/3, other 1. Use it with selector=threshold (the published choice
    is score >= 0) or topk. `learn` notes the rows chosen; the reward needs the student after its step on the same
    rows, which `review` is given. A and b are buffers, kept in float64 as bits, and are summed over ranks.

    Source: Li et al. 2010, "A Contextual-Bandit Approach to Personalized News Article Recommendation", arXiv
    1003.0146; as a selector of tokens in the EKD project's code (linucb).
    """

    needs_student = True
    needs_density = True
    matrix: Tensor
    vector: Tensor

    def __init__(
        self, *, tokenizer: str, explore: float, ridge: float, clip: float, accumulate: int, trust_remote_code: bool
    ) -> None:
        super().__init__()
        if not (0 <= explore < math.inf and 0 < ridge < math.inf and clip > 0):
            raise ValueError(
                f"explore={explore}, ridge={ridge}, clip={clip}: explore needs to be 0 or more, ridge and clip above 0."
            )
        self.tokenizer, self.trust_remote_code = tokenizer, trust_remote_code
        self.explore, self.ridge, self.clip, self.accumulate = explore, ridge, clip, accumulate
        start = ridge * torch.eye(FEATURES, dtype=torch.float64)
        # kept as bits: trainer.precision=bf16-true rounds every floating point buffer of a module
        self.register_buffer("matrix", start.view(torch.int64))
        self.register_buffer("vector", torch.zeros(FEATURES, dtype=torch.float64).view(torch.int64))
        self.classes: Tensor | None = None
        self.waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # chosen (R,) bool, their contexts and KL before

    def forward(self, rows: Rows) -> Tensor:
        """-> (R,) upper confidence bound of the reward, nats."""
        x = self.contexts(rows)
        matrix, vector = self.matrix.view(torch.float64), self.vector.view(torch.float64)
        theta = torch.linalg.solve(matrix, vector)
        width = (x * torch.linalg.solve(matrix, x.T).T).sum(-1).clamp(min=0).sqrt()
        bound: Tensor = x @ theta + self.explore * width
        return bound.to(rows.teacher_entropy.dtype)

    def learn(self, rows: Rows, weight: Tensor, price: Tensor) -> None:
        """weight (R,): notes the chosen rows and their KL before the step."""
        if len(self.waiting) >= self.accumulate:
            raise RuntimeError("the bandit still waits for a reward: call review(rows) after each optimizer step")
        chosen = weight > 0
        self.waiting.append((chosen, self.contexts(rows)[chosen], kl(log_p(rows), log_q(rows))[chosen].double()))

    def review(self, rows: Rows) -> None:
        """The rows of the oldest `learn` that is still unanswered, with `rows.student` of the student after the step.

        Collective: every rank calls it, also with no rows.
        """
        chosen, x, before = self.waiting.pop(0)
        reward = (before - kl(log_p(rows), log_q(rows))[chosen].double()).clamp(-self.clip, self.clip)
        gain = total(torch.cat([x.T @ x, (x.T @ reward)[:, None]], 1))
        self.matrix.view(torch.float64).add_(gain[:, :FEATURES])
        self.vector.view(torch.float64).add_(gain[:, FEATURES])

    def contexts(self, rows: Rows) -> Tensor:
        """-> (R, 6) float64"""
        if self.classes is None:
            self.classes = token_classes(self.tokenizer, rows.vocab, self.trust_remote_code).to(rows.target)
        return torch.stack(
            [
                rows.teacher_entropy.double(),
                teacher_ce(rows).double(),
                student_ce(rows).double(),
                kl(log_p(rows), log_q(rows)).double(),
                rows.position.double() / rows.length,
                self.classes[rows.target].double() / 3,
            ],
            dim=-1,
        )

    def extra_repr(self) -> str:
        return f"tokenizer={self.tokenizer!r}, explore={self.explore}, ridge={self.ridge}, clip={self.clip}"


def token_classes(tokenizer: str, vocab: int, trust_remote_code: bool = False) -> Tensor:
    """(V,) the class of every entry of the student's softmax; entries without a token are "other"."""
    # transformers takes seconds to import, and this is its only use here
    from ekd.models.load import load_tokenizer
    from ekd.models.token_kinds import KINDS, kind_table, token_texts

    source = load_tokenizer(tokenizer, trust_remote_code=trust_remote_code)
    of_kind = torch.tensor([CLASSES[kind] for kind in KINDS])
    return of_kind[kind_table(token_texts(source, vocab))]
