"""A divergence with two dials, forward and reverse KL at its corners."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class AlphaBeta:
    """alpha says how strongly large errors count, beta how strongly the student's own confidence does. It nears
    forward KL for (1, 0) and reverse KL for (0, 1). Never negative; zero, with zero gradient, at p = q. Its value
    depends on how ids are merged into the tail, also where p and q agree in proportion there (KL's does not).

        -1 / (alpha beta) sum_j [p^alpha q^beta - alpha/(alpha+beta) p^(alpha+beta) - beta/(alpha+beta) q^(alpha+beta)]

    Source: Wang et al. 2025, "ABKD", arXiv 2505.04560.
    """

    alpha: float
    beta: float

    def __post_init__(self) -> None:
        if not (0 < self.alpha < math.inf and 0 < self.beta < math.inf):
            raise ValueError(
                f"alpha={self.alpha}, beta={self.beta}: both need to be above 0 (the paper: alpha 0.2, beta 0.7); "
                "for a corner take loss=forward_kl or loss=reverse_kl."
            )

    def __call__(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """(N, K+1), (N, K+1) -> (N,) nats."""
        a, b, both = self.alpha, self.beta, self.alpha + self.beta
        cross = (a * log_p + b * log_q).exp()
        own = (a * (both * log_p).exp() + b * (both * log_q).exp()) / both
        return (own - cross).sum(-1) / (a * b)
