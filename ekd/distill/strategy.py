"""Which of Lightning's strategies train one student, whatever the number of ranks; and the one that shards it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import (
    DDPStrategy,
    ModelParallelStrategy,
    ParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
    StrategyRegistry,
)
from torch.optim import Optimizer

from ekd.distill.student import Student
from ekd.models.shards import filled, made_whole


class FSDP2(ModelParallelStrategy):
    """trainer.strategy=fsdp2: weights, gradients and the optimizer's state in shards over all ranks (ZeRO-3).

    `Student.configure_model` shards. Checkpoints are those of ddp: one whole file, written by the first rank through
    `Checkpoints`, so that the same seal guards it, ddp may go on from it, and no pickle is trusted; Lightning's folder
    of shards (torch.distributed.checkpoint) names its files in one.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """In shards: the module leaves out what is not kept before anything is gathered."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict(keep_vars=True)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return ParallelStrategy.optimizer_state(self, optimizer)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        heavy = made_whole(
            {key: checkpoint[key] for key in ("state_dict", "optimizer_states")}, here=self.is_global_zero
        )
        ParallelStrategy.save_checkpoint(self, checkpoint | heavy, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        shards = self.lightning_module.state_dict()
        mine = {name: filled(shards.get(name), full) for name, full in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(mine, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            learned = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            state = {
                place: {name: filled(learned[place], full) for name, full in values.items()}
                for place, values in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})


# As Lightning finds a strategy by its name: importing this file makes trainer.strategy=fsdp2 one.
StrategyRegistry.register("fsdp2", FSDP2, "weights in shards, layer by layer", override=True)
KNOWN = (SingleDeviceStrategy, DDPStrategy, FSDP2)  # one device, gradients in step, weights in shards


def check_strategy(strategy: Strategy, student: Student) -> None:
    """Raises ValueError for one of which it is not known that it syncs or shards: ranks would train students apart.

    By the very class: another that is built on DDP (DeepSpeed) may do it in a way of its own.
    """
    if isinstance(strategy, ModelParallelStrategy) and strategy._tensor_parallel_size != 1:
        raise ValueError(
            "trainer.strategy asks for tensor parallelism, which ekd does not do: its head reads whole rows of logits, "
            "and a student that needs no more than one layer whole on a device fits with trainer.strategy=fsdp2"
        )
    if type(strategy) not in KNOWN:
        raise ValueError(
            f"trainer.strategy is {type(strategy).__name__}, which is not known to keep one student over its devices: "
            "set trainer.strategy=auto, ddp or fsdp2"
        )
    if isinstance(strategy, FSDP2):
        check_sharding(strategy, student)


def check_sharding(strategy: FSDP2, student: Student) -> None:
    """What was not seen to work with shards is refused, before anything is loaded."""
    precision = strategy.precision_plugin
    for said, wrong, way in (
        ("student.compile=true", student.build.compile, "student.compile=false"),
        (f"student.quantize={student.spec.quantize}", student.spec.quantize is not None, "trainer.strategy=ddp"),
        (
            "trainer.precision=16-mixed",
            isinstance(precision, MixedPrecision) and precision.scaler is not None,
            "trainer.precision=bf16-mixed",
        ),
    ):
        if wrong:
            raise ValueError(f"{said} with trainer.strategy=fsdp2 is not known to train one student: set {way}")
