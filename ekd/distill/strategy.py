"""Which of Lightning's strategies train one student, whatever the number of ranks."""

from __future__ import annotations

from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy, Strategy

KNOWN = (SingleDeviceStrategy, DDPStrategy, FSDPStrategy)  # one device, gradients in step, weights in shards


def check_strategy(strategy: Strategy) -> None:
    """Raises ValueError for one of which it is not known that it syncs or shards: ranks would train students apart.

    By the very class: another that is built on DDP (DeepSpeed) may do it in a way of its own.
    """
    if type(strategy) not in KNOWN:
        raise ValueError(
            f"trainer.strategy is {type(strategy).__name__}, which is not known to keep one student over its devices: "
            "set trainer.strategy=auto, ddp or fsdp"
        )
