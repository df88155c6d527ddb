"""The hard-label loss: no teacher distribution, only its tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Fine-tuning on the teacher's tokens. With selector=vanilla this is the teacher-free control.

        -ln q(y)

    Source: Kim & Rush 2016, "Sequence-Level Knowledge Distillation", arXiv 1606.07947.
    """

    def __call__(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """(N, K+1), (N, K+1) -> (N,) nats; column 0 is the token that came next."""
        return -log_q[:, 0]
