"""Rows that are counts of draws from the teacher (RS-KD), in place of its most likely ids."""

from __future__ import annotations

import torch
from torch import Tensor


def drawn(log_p: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """log_p (N, V), uniform (N, draws) in [0, 1) -> the ids drawn (N, draws), each once, and their counts; 0 = no id.

    By falling count. Ids are drawn from p at temperature 1, with replacement, so that count / draws is p on average.

    Source: Anshumann et al. 2025, "Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs", arXiv
    2503.16870.
    """
    # float32 sums of 150,000 terms would shift the odds of rare ids
    reach = log_p.double().exp().cumsum(-1)
    picks = torch.searchsorted(reach, uniform.to(reach) * reach[:, -1:], right=True).clamp_max(log_p.shape[1] - 1)
    return tally(picks)


def tally(picks: Tensor) -> tuple[Tensor, Tensor]:
    """(N, draws) -> different ids and how often each was picked, both (N, draws), by falling count."""
    ordered = picks.sort(-1).values
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    run = new.cumsum(-1) - 1
    counts = torch.zeros_like(ordered).scatter_add_(1, run, torch.ones_like(ordered))
    ids = torch.zeros_like(ordered).scatter_(1, run, ordered)
    counts, order = counts.sort(stable=True, dim=-1, descending=True)
    return ids.gather(1, order), counts
