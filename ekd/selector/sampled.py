"""Rows drawn by lot, in proportion to their score."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ekd.models.chance import uniform
from ekd.models.segments import Segments, by_segment, segments
from ekd.selector.segment import check_percent, check_scores, share


class Sampled(nn.Module):
    """K = ceil(k n / 100) draws with replacement from each sequence; a row counts as often as it was drawn.

        corrected:    w_t = draws_t / (K P_t),   so that E w_t = 1: the expected loss is vanilla's
        uncorrected:  w_t = n draws_t / K,       so that E w_t = n P_t: the expected loss is weighted by the score

    with P_t = max(s_t, eps)^alpha / sum. These are the papers' weights 1/(n K P) and 1/K times n: the Student divides
    by the number of rows (`importance`; uncorrected weights sum to it), so that long and short sequences count as with
    vanilla. The step is a buffer: a resumed run draws what it would have drawn. Ranks draw differently.

    Source: Pos RS-KD and Pos RS-KD* of Tavor et al. 2026 (SE-KD), arXiv 2602.01395, appendix A.
    """

    step: Tensor

    def __init__(self, *, k_percent: float, alpha: float, eps: float, corrected: bool, seed: int) -> None:
        super().__init__()
        check_percent(k_percent)
        if not (0 <= alpha < math.inf and 0 < eps < math.inf):
            raise ValueError(
                f"alpha={alpha}, eps={eps}: drawing needs alpha >= 0 (0 draws uniformly) and eps above 0, so that "
                "every row can be drawn."
            )
        self.k_percent, self.alpha, self.eps, self.corrected, self.seed = k_percent, alpha, eps, corrected, seed
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    @property
    def importance(self) -> bool:
        return self.corrected

    def forward(self, score: Tensor, sequence: Tensor) -> Tensor:
        """(R,), (R,) -> weight (R,), 0 where never drawn."""
        check_scores(score)
        runs = segments(sequence)
        chance = self.chance(score, runs)
        wanted = share(self.k_percent, runs.size)
        draws = self.draw(chance, runs, wanted)
        self.step += 1
        wide = wanted[runs.member]
        weight = draws / (wide * chance) if self.corrected else draws * runs.size[runs.member] / wide
        return weight.to(score.dtype)

    def chance(self, score: Tensor, runs: Segments) -> Tensor:
        """(R,) float64, P_t: sums to 1 over each segment."""
        log = self.alpha * score.detach().double().clamp(min=self.eps).log()
        mass = (log - by_segment(log, runs, "amax")[runs.member]).exp()
        return mass / by_segment(mass, runs, "sum")[runs.member]

    def draw(self, chance: Tensor, runs: Segments, wanted: Tensor) -> Tensor:
        """(R,) how often each row is drawn: one uniform number a draw, looked up in its segment's running sum."""
        running = chance.cumsum(0)
        # one cumsum over all segments: what came before a segment is taken off again, and rounding may leave a little
        # more than 1, which would reach into the next segment, or less, which `last` catches
        within = running - (running - chance)[runs.start][runs.member]
        ladder = runs.member + within.clamp(max=1.0)  # segment s covers (s, s + 1]
        lot = torch.repeat_interleave(torch.arange(len(wanted), device=chance.device), wanted)
        found = torch.searchsorted(ladder, lot + uniform(len(lot), chance, self.seed, int(self.step)), right=True)
        last = (runs.start + runs.size - 1)[lot]
        return torch.bincount(torch.minimum(found, last), minlength=len(chance)).double()

    def extra_repr(self) -> str:
        values = f"k_percent={self.k_percent}, alpha={self.alpha}, eps={self.eps}"
        return f"{values}, corrected={self.corrected}, seed={self.seed}"
