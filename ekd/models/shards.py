"""Weights in shards (FSDP2): a rank keeps its rows of every matrix, and has a layer whole only while that layer works.

The head is read outside every module's forward pass (`ekd.models.head`). So what belongs to no layer, embeddings and
head, is whole from the moment the decoder is called until the backward pass is over or `rest` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map
from transformers import PreTrainedModel


def shard(model: PreTrainedModel, mesh: DeviceMesh) -> Callable[..., Any]:
    """In place, over a mesh of one dimension. -> what stands for the decoder from now on: calling the decoder itself
    would leave the head in shards. Raises ValueError for a model that does not say what its layers are.
    """
    names = set(model._no_split_modules or ())
    layers = [part for part in model.modules() if type(part).__name__ in names]
    if not layers:
        raise ValueError(
            f"trainer.strategy=fsdp2 shards layer by layer, and a {model.config.model_type} model does not say which "
            "of its modules are layers (_no_split_modules): set trainer.strategy=ddp"
        )
    for layer in reversed(layers):  # a layer within a layer comes before it
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.decode = model.get_decoder().__call__
    register_fsdp_forward_method(model, "decode")
    decode: Any = model.decode
    return decode  # type: ignore[no-any-return] # a method by now


def is_sharded(model: nn.Module | None) -> bool:
    return isinstance(model, FSDPModule)


def rest(model: nn.Module | None) -> None:
    """Embeddings and head back to shards, after a pass without gradient. Until then `parameters` are not the shards."""
    if isinstance(model, FSDPModule):
        model.reshard()


@contextmanager
def whole(model: PreTrainedModel) -> Iterator[None]:
    """All weights on every rank, so that each may write texts of its own length. Nothing to do for others."""
    if not isinstance(model, FSDPModule):
        yield
        return
    parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
    with torch.no_grad():  # the first call decides which part is the root, and it must be this one
        decode: Any = model.decode
        decode(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device))
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for place, part in enumerate(parts):
            part.set_reshard_after_forward(place > 0, recurse=False)  # the first is the root, as `shard` leaves it
            part.reshard()


@torch.no_grad()
def made_whole(tree: Any, *, here: bool) -> Any:
    """A tree with its shards as whole tensors on the CPU, one after another; on ranks that are not `here` without them.

    Every rank must call it. What was one tensor under two names is one afterwards.
    """
    made: dict[int, Tensor | None] = {}

    def gather(leaf: Any) -> Any:
        if not isinstance(leaf, DTensor):
            return leaf
        if id(leaf) not in made:
            full = leaf.full_tensor()
            made[id(leaf)] = full.cpu() if here else None
        return made[id(leaf)]

    return tree_map(gather, tree)


def filled(shard: Any, full: Any) -> Any:
    """A new shard with this rank's rows of a whole tensor; `full` itself where there is no shard of that shape."""
    if not isinstance(shard, DTensor) or not isinstance(full, Tensor) or shard.shape != full.shape:
        return full
    made: Any = torch.zeros_like(shard, dtype=full.dtype, requires_grad=False)
    local = made.to_local()
    first = shard.device_mesh.get_local_rank() * -(-len(full) // shard.device_mesh.size())
    local.copy_(full[first : first + len(local)])
    return made


def unsharded(model: PreTrainedModel, bare: Callable[[], PreTrainedModel], *, here: bool) -> PreTrainedModel | None:
    """The model as if it had never been in shards, on the CPU, where `here` is true. Every rank must call it.

    bare: the same model without weights, on `meta`; it takes the gathered ones as they are, so there is no second copy.
    """
    rest(model)
    found: Mapping[str, Any] = made_whole(model.state_dict(keep_vars=True), here=here)
    if not here:
        return None
    with torch.device("meta"):
        plain = bare()
    made: dict[int, nn.Parameter] = {}
    weights = {
        name: made.setdefault(id(full), nn.Parameter(full, requires_grad=False))
        for name, full in found.items()
        if isinstance(full, Tensor)
    }
    plain.load_state_dict(weights, assign=True)
    for name, buffer in model.named_buffers():  # also those that no state dict holds
        where, _, last = name.rpartition(".")
        setattr(plain.get_submodule(where), last, buffer.cpu())
    plain.generation_config = model.generation_config
    plain.train(model.training)
    return plain
