"""Which rows pay for the next token alone, and which for the teacher's whole distribution: alpha_ce, row by row."""

from __future__ import annotations

from torch import Tensor, nn

from ekd.types import Learns, Reviews, Rows, Selector, Signal

HARD = ("chosen", "others")


class HardLabel(nn.Module):
    """Any signal and any selector divide the rows; one side pays cross entropy on the token that came next, the other
    the loss. hard: chosen (those of high score) or others. A weight between 0 and 1 is a share of both prices; without
    a selector the score itself is the weight.

        price_t = a_t CE + (1 - a_t) loss,  a_t = w_t with hard=chosen, 1 - w_t with hard=others,  w within 0 and 1

    The memory of both parts is in checkpoints. On a text of the student's own the next token is its own, not the
    teacher's: hard labels mean something where the teacher or the dataset wrote.

    Source: Wang et al. 2026, "The Bridge-Garden Dilemma in LLM Distillation", arXiv 2605.26246: a hard label where the
    next token must be exact, a soft one where it is free; read: its abstract and the authors' code, whose variant by
    confidence is signal=teacher_uncertainty without a selector.
    """

    def __init__(self, *, signal: Signal, selector: Selector | None, hard: str) -> None:
        super().__init__()
        if hard not in HARD:
            raise ValueError(
                f"gate.hard={hard!r} is not known: choose chosen (high scores pay cross entropy) or others."
            )
        for name, part in (("signal", signal), ("selector", selector)):
            if isinstance(part, (Learns, Reviews)):
                raise ValueError(
                    f"gate.{name}={part} learns from what chosen rows cost, and a gate leaves none out: take a signal "
                    "such as teacher_entropy with topk, bucket, threshold or random."
                )
        self.signal, self.selector, self.hard = signal, selector, hard

    def forward(self, rows: Rows) -> Tensor:
        """Matched rows (R,) -> a (R,) from 0 to 1."""
        score = self.signal(rows)
        weight = (score if self.selector is None else self.selector(score, rows.sequence)).clamp(0, 1)
        return weight if self.hard == "chosen" else 1 - weight

    def extra_repr(self) -> str:
        return f"signal={self.signal}, selector={self.selector}, hard={self.hard!r}"
