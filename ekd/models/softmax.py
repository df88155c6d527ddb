"""A row of logits as probabilities, over the whole vocabulary."""

from __future__ import annotations

from torch import Tensor


def softmax_of(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """logits (N, V) -> log p, p and the entropy (N,), nats."""
    z = z.float()
    log_p = z - z.logsumexp(-1, keepdim=True)  # not log_softmax: biased by 2e-5 on CPU at V = 151,936
    p = log_p.exp()
    return log_p, p, -(p * log_p.clamp_min(-1e30)).sum(-1)
