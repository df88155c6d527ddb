"""What several rows of a batch begin with is read once: worked examples, a system message, a problem sampled often.

Prompts make a tree. It is cut at a few columns, the same for all rows: between two cuts each distinct text is read
once, and sees the keys and values of the text that it continues. So nothing within a cut is padding, and attention
needs no mask: windows of attention stay right, and gradients pass through the copied keys and values. A tree whose
nodes end where texts part would need both, and saves next to nothing more where a batch is alike in length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

WORTH = 0.25  # of the places read without it: a further pass of the decoder that leaves out less saves next to nothing

# One pass of the decoder: the column at which it ends, having begun where the pass before it did; a row that has it,
# for each of its N texts, (N,) int64; which text of the pass before each continues, (N,) int64, None where none was.
Pass = tuple[int, Tensor, Tensor | None]
Chain = tuple[Pass, ...]  # each continues the one before it; the last reads what rows have of their own


def common(one: list[int], other: list[int]) -> int:
    """How many ids both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


class Tree:
    """prefixes: what of each row others may have in common with it; lengths: of the rows, prefixes included. together:
    a row whose prefix ends before the last cut is read in the last pass of the others, else in one of its own.
    """

    def __init__(self, prefixes: Sequence[Sequence[int]], lengths: Sequence[int], *, together: bool = False) -> None:
        lists = [list(prefix) for prefix in prefixes]
        self.order = sorted(range(len(lists)), key=lists.__getitem__)
        near = [common(lists[a], lists[b]) for a, b in zip(self.order, self.order[1:], strict=False)]
        self.near = np.array([0, *near])  # columns that a row in that order has in common with the one before it
        self.prefix, self.length, self.together = np.array([len(p) for p in lists]), np.array(lengths), together
        self.cuts = self._cuts()

    def _cuts(self) -> list[int]:
        """Ascending; none where they would not pay. One after another, the best first."""
        cuts: list[int] = []
        least = self.places(cuts)
        possible = {*self.near.tolist(), *self.prefix.tolist()} if self.near.any() else set()
        possible = {cut for cut in possible if 0 < cut < self.length.max()}
        while possible:
            cut = min(sorted(possible), key=lambda cut: self.places([*cuts, cut]))
            if self.places([*cuts, cut]) > (1 - WORTH) * least:
                break
            cuts, least = sorted([*cuts, cut]), self.places([*cuts, cut])
            possible.remove(cut)
        return cuts

    def text(self, cut: int) -> np.ndarray:
        """(B,) which of the distinct texts of so many columns each row has; rows whose prefix is shorter, any other."""
        number = np.empty(len(self.order), np.int64)
        number[self.order] = (self.near < cut).cumsum()
        return number

    def sharing(self, cuts: Sequence[int]) -> np.ndarray:
        """(B,) bool, the rows that the cuts are for: they have so many columns to share."""
        return self.prefix >= max(cuts, default=0)

    def places(self, cuts: Sequence[int]) -> int:
        """How many the decoder reads."""
        rows, edges = self.sharing(cuts), [0, *sorted(cuts)]
        begun = sum(len(set(self.text(cut)[rows])) * (cut - before) for before, cut in pairwise(edges))
        own, whole = self.length[rows].max() - edges[-1], self.length[~rows].max(initial=0)
        if self.together:
            return int(begun + len(rows) * max(own, whole))
        return int(begun + rows.sum() * own + (~rows).sum() * whole)

    def chains(self) -> tuple[Chain, ...]:
        """() where every row is best read whole; else of the rows that share, then of any others."""
        if not self.cuts:
            return ()
        sharing = self.sharing(self.cuts)
        rows, others = np.flatnonzero(sharing), np.flatnonzero(~sharing)
        chain: list[Pass] = []
        texts: np.ndarray | None = None  # which of those of the pass before each row has
        for cut in self.cuts:
            _, first, found = np.unique(self.text(cut)[rows], return_index=True, return_inverse=True)
            chain.append(_pass(cut, rows[first], None if texts is None else texts[first]))
            texts = found
        assert texts is not None
        if self.together:
            parents = np.zeros(len(sharing), np.int64)
            parents[rows] = texts
            return ((*chain, _pass(self.length.max(), np.arange(len(sharing)), parents)),)
        chain.append(_pass(self.length[rows].max(), rows, texts))
        return (tuple(chain), *([(_pass(self.length[others].max(), others, None),)] if len(others) else []))


def _pass(end: int, row: np.ndarray, parent: np.ndarray | None) -> Pass:
    return int(end), torch.from_numpy(row), None if parent is None else torch.from_numpy(parent)


def read_begun(
    decode: Callable[..., Any], ids: Tensor, positions: Tensor, begun: Sequence[Pass], cache: Any = None
) -> tuple[Any, int]:
    """The keys and values of all passes but the last, and how many columns they hold: `cache`, 0 where there are none.

    ids, positions (B, T), on the decoder's device as the passes are. cache: an empty one; None: the decoder's own.
    """
    begin = 0
    for step in begun:
        cache, begin = read_pass(decode, ids, positions, step, cache, begin).past_key_values, step[0]
    return cache, begin


def read_pass(
    decode: Callable[..., Any], ids: Tensor, positions: Tensor, step: Pass, cache: Any, begin: int, *, keep: bool = True
) -> Any:
    """What a decoder says of one pass; the cache becomes its own. keep: whether another will follow."""
    end, row, parent = step
    if parent is not None:
        cache.batch_select_indices(parent)
    return decode(
        input_ids=ids[row, begin:end],
        position_ids=positions[row, begin:end],
        past_key_values=cache,
        use_cache=keep or cache is not None,
    )


def kinds(model: PreTrainedModel) -> set[str]:
    """How the layers of a decoder attend, in transformers' words."""
    config = model.config.get_text_config()
    one = "full_attention" if getattr(config, "sliding_window", None) is None else "sliding_attention"
    return set(getattr(config, "layer_types", None) or [one])


def keeps_keys(model: PreTrainedModel) -> bool:
    """Whether a decoder remembers what it has read by keys and values alone, which can be copied to other rows."""
    return kinds(model) <= {"full_attention", "sliding_attention"}


def can_share(model: PreTrainedModel) -> bool:
    """In training: not with dropout, which draws for every row, nor with gradient checkpointing: it keeps no cache."""
    config = model.config.get_text_config()
    drops = any(isinstance(part, torch.nn.Dropout) and part.p > 0 for part in model.modules())
    plain = keeps_keys(model) and not getattr(config, "attention_dropout", 0)
    return plain and not drops and not any(getattr(part, "gradient_checkpointing", False) for part in model.modules())
