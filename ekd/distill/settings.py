"""What a student is given beside its model and its actors: how it is made ready, what it pays, how it moves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel

from ekd.distill.schedule import spread
from ekd.models.checkpoint import STUDENT
from ekd.models.head import TAILS
from ekd.models.lora import Lora
from ekd.models.precision import round_frozen
from ekd.models.prefix import can_share
from ekd.models.shards import shard

UNMATCHED = ("end", "all", "none")


@dataclass(frozen=True, kw_only=True)
class Build:
    """What is made of the loaded model before it learns.

    lora: train low-rank adapters only. compile: the decoder through torch.compile. start: a checkpoint whose weights
    replace the model's.
    """

    lora: Lora | None
    gradient_checkpointing: bool
    compile: bool
    start: str | None

    def check_quantize(self, quantize: str | None) -> None:
        if quantize and self.lora is None:
            raise ValueError(
                f"student.quantize={quantize} freezes the weights, so something else has to learn: student=qlora"
            )

    def attach(self, model: PreTrainedModel) -> None:
        """Adapters, where there are any; in place."""
        if self.lora is not None:
            self.lora.attach(model)

    def set_training(self, model: PreTrainedModel) -> None:
        model.train()
        if self.gradient_checkpointing:
            # reentrant, no gradient would pass where no input asks for one: behind frozen embeddings (LoRA)
            model.gradient_checkpointing_enable({"use_reentrant": False})

    def decoder(self, model: PreTrainedModel, mesh: DeviceMesh | None) -> tuple[Callable[..., Any], bool]:
        """What reads a batch, and whether it may read a common beginning apart. mesh: where the weights go in shards.

        A method, not a module: a second name for the decoder would write its weights twice into a checkpoint.
        """
        if mesh is not None:
            # gradient of a beginning reaches a layer through its keys, after the layer has gone back to shards
            return shard(model, mesh["data_parallel"]), False
        if self.compile:
            return torch.compile(model.get_decoder().forward), False
        if self.lora is not None and not self.gradient_checkpointing:  # with it, one rounded layer is held at a time
            round_frozen(model)
        return model.get_decoder().__call__, can_share(model)

    def to_keep(self, module: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
        """Of a state dict what a checkpoint needs: beside adapters, the model's frozen weights are not in it."""
        if self.lora is None:
            return dict(state)
        learned = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
        return {key: value for key, value in state.items() if key in learned or not key.startswith(STUDENT)}

    def save(self, model: PreTrainedModel, untrained: Callable[[], PreTrainedModel], folder: Path) -> None:
        """As plain transformers loads it. Adapters are kept beside (`folder`/adapter) and merged in."""
        if self.lora is None:
            model.save_pretrained(folder)
        else:
            model.save_pretrained(folder / "adapter")
            self.lora.merge(untrained(), folder / "adapter").save_pretrained(folder)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """temperature, alpha_ce, tail, head_mb: see `ekd.models.head.distill`. unmatched: which rows without a teacher
    distribution are priced by cross entropy: end (the end token, so that the student learns to stop), all or none.
    """

    temperature: float
    alpha_ce: float
    tail: str
    unmatched: str
    head_mb: float

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"student.temperature is more than 0, not {self.temperature}")
        if not 0 <= self.alpha_ce <= 1:
            raise ValueError(f"student.alpha_ce (share of cross entropy in the loss) is 0 to 1, not {self.alpha_ce}")
        if self.tail not in TAILS:
            raise ValueError(f"student.tail is one of {', '.join(TAILS)}, not {self.tail!r}")
        if self.unmatched not in UNMATCHED:
            raise ValueError(f"student.unmatched is one of {', '.join(UNMATCHED)}, not {self.unmatched!r}")

    def check_gate(self, gated: bool) -> None:
        if gated and self.alpha_ce:
            raise ValueError(
                f"student.alpha_ce={self.alpha_ce} and gate=hard_label both say how much of a price is cross "
                "entropy: leave student.alpha_ce=0, or gate=null"
            )

    @property
    def terms(self) -> dict[str, Any]:
        """As `ekd.models.head.distill` calls them."""
        words = {"temperature": self.temperature, "alpha_ce": self.alpha_ce, "tail": self.tail}
        return {**words, "budget_mb": self.head_mb}


@dataclass(frozen=True, kw_only=True)
class Pace:
    """optimizer: parameters -> optimizer. schedule, warmup: a name of transformers' `get_scheduler`, and the share of
    the steps it rises. supervised_tokens: the run ends after learning from so many, and the schedule runs over them;
    None: over the steps. grad_limit: a longer gradient, before it is clipped, stops the run; None: only one that is not
    finite.
    """

    optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer]
    schedule: str
    warmup: float
    supervised_tokens: int | None
    grad_limit: float | None

    def __post_init__(self) -> None:
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"student.warmup (share of the steps) is 0 to 1, not {self.warmup}")
        if self.supervised_tokens is not None and self.supervised_tokens < 1:
            raise ValueError(f"student.supervised_tokens is 1 or more, or null, not {self.supervised_tokens}")
        if self.grad_limit is not None and not self.grad_limit > 0:
            raise ValueError(
                f"student.grad_limit (norm of the gradient) is more than 0, or null, not {self.grad_limit}"
            )

    def check_budget(self, max_steps: int) -> None:
        """Before any work: a run has one end."""
        if self.supervised_tokens is not None and max_steps != -1:
            raise ValueError(
                f"two budgets, student.supervised_tokens={self.supervised_tokens} and trainer.max_steps={max_steps}: "
                "leave trainer.max_steps out with budget=tokens, or use budget=steps"
            )

    def is_over(self, supervised: Tensor) -> bool:
        """Whether a run that ends by tokens has learned from as many as it was to."""
        return self.supervised_tokens is not None and int(supervised) >= self.supervised_tokens

    def optimizers(self, parameters: Iterable[Tensor], steps: float) -> dict[str, Any]:
        """As Lightning wants them. steps: of the run, where no number of tokens ends it."""
        optimizer = self.optimizer(parameters)
        scheduler = spread(self.schedule, optimizer, self.warmup, self.supervised_tokens or int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
