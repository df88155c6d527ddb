"""Where a step would make the host wait for a GPU, found on a CPU by what PyTorch dispatches.

An operation waits if the host has to know a value (`item`, `float()`, `bool()`, `tolist`) or the shape of a result
that depends on values (`nonzero`, a boolean mask as an index, `unique`, `repeat_interleave` by a tensor). CUDA's own
check of the same is torch.cuda.set_sync_debug_mode. What is in main memory by design (a batch before it is moved) is
not looked at: the mode is entered when the batch is there.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ATEN = torch.ops.aten
VALUES = {ATEN._local_scalar_dense, ATEN.is_nonzero, ATEN.equal}
SHAPES = {ATEN.nonzero, ATEN.masked_select, ATEN._unique2, ATEN.unique_dim, ATEN.unique_consecutive, ATEN.bincount}
OURS = str(Path(__file__).parents[1] / "ekd")


class Waits(TorchDispatchMode):
    """seen: (file, function, operation) -> how often, by ekd's innermost function on the stack."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[str, str, str]] = Counter()

    def __enter__(self) -> Waits:
        """`tolist` and `numpy` of a tensor in main memory are not dispatched."""
        self.plain = {name: getattr(torch.Tensor, name) for name in ("tolist", "numpy")}
        for name, method in self.plain.items():
            setattr(torch.Tensor, name, self._counted(name, method))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        for name, method in self.plain.items():
            setattr(torch.Tensor, name, method)
        super().__exit__(*error)

    def _counted(self, name: str, method: Any) -> Any:
        def call(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self.seen[(*_place(), name)] += 1
            return method(tensor, *args, **kwargs)

        return call

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        waits = packet in VALUES or packet in SHAPES or _by_mask(packet, args)
        waits = waits or (func is ATEN.repeat_interleave.Tensor and (kwargs or {}).get("output_size") is None)
        if waits:
            self.seen[(*_place(), str(packet).removeprefix("aten."))] += 1
        return func(*args, **(kwargs or {}))


def _by_mask(packet: Any, args: Any) -> bool:
    if packet not in (ATEN.index, ATEN.index_put, ATEN.index_put_, ATEN._index_put_impl_):
        return False
    return any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1])


def _place() -> tuple[str, str]:
    frame = sys._getframe(2)
    outside = frame
    while frame is not None:
        if frame.f_code.co_filename.startswith(OURS):
            return Path(frame.f_code.co_filename).stem, frame.f_code.co_name
        frame = frame.f_back  # type: ignore[assignment]
    return Path(outside.f_code.co_filename).stem, outside.f_code.co_name
