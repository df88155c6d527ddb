"""Sampled-token KL by spans: how likely what came is to both, whatever tokens they cut it into (ALM)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SURE = 1e-6  # nats that ln P and ln Q are below 0 at least, so that ln(1 - Q) is finite, as in the paper's code


@dataclass(frozen=True, kw_only=True)
class SpanKL:
    """A control for teachers of another family: of each span it compares one number, the probability of what came, and
    of nothing that might have come. A span lies between two places where tokens of teacher and student end together.

        tau (P ln(P / Q) + (1 - P) ln((1 - P) / (1 - Q))),  ln P = sum of ln p(y) / tau over the span, Q alike

    At tau = 1 it is the KL of "it came" and "it did not". As published, tau = 100 flattens both; its limit, which the
    factor tau keeps in nats, is b - a + a ln(a / b), a = -sum ln p(y), b = -sum ln q(y). Not part: choosing spans whose
    ends say as little of what follows to both, and adding how likely a space comes next. Of a span whose rows are not
    all chosen, those that are.

    Source: Minixhofer, Vulic and Ponti 2025, "Universal Cross-Tokenizer Distillation via Approximate Likelihood
    Matching", arXiv 2503.20083; formula and tau after the authors' code (tokenkit).
    """

    tau: float

    def __post_init__(self) -> None:
        if not 0 < self.tau < math.inf:
            raise ValueError(f"tau={self.tau}: a temperature is more than 0, for example loss.tau=100, as published")

    def __call__(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """(N, K+1), (N, K+1) -> (N,) nats, every row a span of its own."""
        return self.of_spans(log_p, log_q, torch.arange(len(log_p), device=log_p.device))

    def of_spans(self, log_p: Tensor, log_q: Tensor, span: Tensor) -> Tensor:
        """(N, K+1), (N, K+1), span (N,) ascending -> (N,) nats, a span's price shared equally by its rows."""
        _, member, size = span.unique_consecutive(return_inverse=True, return_counts=True)
        came = [log[:, 0].double() / self.tau for log in (log_p, log_q)]
        zero = came[0].new_zeros(len(size))
        ln_p, ln_q = (zero.index_add(0, member, part) - SURE for part in came)
        not_p, not_q = (torch.log(-torch.expm1(ln)) for ln in (ln_p, ln_q))
        price = ln_p.exp() * (ln_p - ln_q) - torch.expm1(ln_p) * (not_p - not_q)
        shared: Tensor = (self.tau * price / size)[member]
        return shared.to(log_q.dtype)
