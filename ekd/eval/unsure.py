"""How sure a model was of each token that it wrote."""

from __future__ import annotations

from torch import Tensor

from ekd.models.softmax import softmax_of
from ekd.types import Text


class Unsure:
    """The entropy of each token's distribution, noted while a batch is written."""

    def __init__(self, count: int) -> None:
        self.known: list[list[float]] = [[] for _ in range(count)]

    def watch(self, rows: list[int], z: Tensor, _: Tensor) -> None:
        for row, nats in zip(rows, softmax_of(z)[2].tolist(), strict=True):
            self.known[row].append(nats)

    def beside(self, row: int, text: Text) -> Text:
        return text._replace(entropy=self.known[row][: len(text.ids)])
