"""From easy rows to hard ones as training goes on."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ekd.models.segments import rank, segments
from ekd.selector.segment import check_percent, check_scores, share


class Curriculum(nn.Module):
    """A window of topk's size over each sequence's rows sorted by rising score; it moves up while the run goes on.

        w_t = [o <= rank of s_t, from 0 for the lowest, < o + k],  o = floor((n - k) phase),
        phase = start + (end - start) min(step / steps, 1)^power

    The step is a buffer: a resumed run goes on where it was.

    Source: the curriculum policy of Tavor et al. 2026 (SE-KD), arXiv 2602.01395, after Feng et al. 2024,
    "Keypoint-based Progressive Chain-of-Thought Distillation", arXiv 2405.16064.
    """

    step: Tensor

    def __init__(
        self, *, k_percent: float, start: float, end: float, power: float, steps: int, accumulate: int
    ) -> None:
        super().__init__()
        check_percent(k_percent)
        if not (0 <= start <= 1 and 0 <= end <= 1):
            raise ValueError(f"start={start}, end={end}: phases lie between 0 (lowest scores) and 1 (highest).")
        if not 0 < power < math.inf:
            raise ValueError(f"power={power}: it needs to be above 0; 1 moves evenly, 2 stays longer at the start.")
        if steps < 1 or accumulate < 1:
            raise ValueError(
                f"steps={steps}, accumulate={accumulate}: a curriculum needs to know the length of the run, so set "
                "trainer.max_steps, or selector.steps to the steps from start to end."
            )
        self.k_percent, self.start, self.end, self.power = k_percent, start, end, power
        self.calls = steps * accumulate  # a selector is called once for each micro-batch
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    @property
    def phase(self) -> float:
        done: float = min(int(self.step) / self.calls, 1.0) ** self.power
        return self.start + (self.end - self.start) * done

    def forward(self, score: Tensor, sequence: Tensor) -> Tensor:
        """(R,), (R,) -> weight (R,), 0 or 1."""
        check_scores(score)
        runs = segments(sequence)
        wide = share(self.k_percent, runs.size)
        first = ((runs.size - wide) * self.phase).floor()
        place = rank(score, runs, descending=False)
        self.step += 1
        return ((place >= first[runs.member]) & (place < (first + wide)[runs.member])).to(score.dtype)

    def extra_repr(self) -> str:
        return f"k_percent={self.k_percent}, start={self.start}, end={self.end}, power={self.power}, calls={self.calls}"
