"""Keys and values of texts that are being written, kept where there is room for tokens to come.

transformers' cache makes a new tensor of all keys at every token, and autocast rounds all of them anew before each
product. Here they are rounded once, when they are kept, and a token is written behind the others: the same numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from ekd.models.prefix import keeps_keys

ROOM = 64  # tokens


class Roomy(DynamicLayer):
    """Not for training: what is written in place has no gradient."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)  # type: ignore[no-untyped-call]
        self.rooms: tuple[Tensor | None, Tensor | None] = (None, None)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """(B, heads, n, D) of the next n tokens -> all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self.rooms
        keys = _written(self.keys, keys, key_states)
        values = _written(self.values, values, value_states)
        end = self.get_seq_length() + key_states.shape[-2]
        self.rooms = keys, values
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.rooms = None, None  # else the rows that left would stay until the next token


def _written(kept: Tensor | None, room: Tensor | None, new: Tensor) -> Tensor:
    """The room that holds what is kept and, behind it, what is new; another one where it is too small or was left: rows
    that were chosen or repeated are elsewhere.
    """
    kept = new[..., :0, :] if kept is None or not kept.numel() else kept
    begin, kind = kept.shape[-2], new.device.type
    end = begin + new.shape[-2]
    if room is None or room.data_ptr() != kept.data_ptr() or room.shape[0] != new.shape[0] or room.shape[-2] < end:
        rounds = torch.is_autocast_enabled(kind) and new.dtype != torch.float64  # which autocast leaves alone
        dtype = torch.get_autocast_dtype(kind) if rounds else new.dtype
        room = new.new_empty((*new.shape[:-2], end + ROOM, new.shape[-1]), dtype=dtype)
        room[..., :begin, :] = kept
    room[..., begin:end, :] = new
    return room


def roomy_cache(model: PreTrainedModel) -> DynamicCache | None:
    """An empty one; None where a model remembers in another way, and makes a cache of its own."""
    if not keeps_keys(model):
        return None
    cache = DynamicCache(config=model.config)
    cache.layers = [Roomy() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
