"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) on a student whose own weights stay as they are."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Lora:
    """W + (alpha / r) B A, A (r, in) random and B (out, r) zero at first: training starts from the model itself.

    dropout: of what A reads. targets: "all-linear" (every matrix but the head), or the names of modules, e.g. [q_proj,
    v_proj]; lm_head may be one of them. Needs the package peft.
    """

    r: int
    alpha: float
    dropout: float
    targets: str | Sequence[str]

    def __post_init__(self) -> None:
        if self.r < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                "student.lora.r is 1 or more, alpha more than 0 and dropout 0 to 1, not "
                f"{self.r}, {self.alpha} and {self.dropout}"
            )
        if importlib.util.find_spec("peft") is None:
            raise ValueError("student.lora needs the package peft: `pip install peft`, or set student.lora=null")

    def attach(self, model: PreTrainedModel) -> None:
        """Adapters into the model, in place; everything else is frozen. They are drawn from the process's seed,
        whatever it drew before: a model that was converted or a teacher that was loaded on the way changes nothing.
        """
        from peft import LoraConfig

        targets = self.targets if isinstance(self.targets, str) else list(self.targets)
        adapters = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,  # type: ignore[arg-type] # a float works, and half a rank is a fair scale
            lora_dropout=self.dropout,
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
        try:
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # on every device the same
                torch.default_generator.manual_seed(torch.initial_seed())
                model.add_adapter(adapters)
        except ValueError as error:
            raise ValueError(f"student.lora.targets={self.targets}: {str(error).splitlines()[0][:300]}") from error

    def merge(self, base: PreTrainedModel, adapter: Path) -> PreTrainedModel:
        """The untouched model with saved adapters added into its weights."""
        from peft import PeftModel

        head = base.get_output_embeddings()
        if base.config.tie_word_embeddings and "lm_head" in self.targets:
            head.weight = torch.nn.Parameter(head.weight.detach().clone())  # else the embeddings would move, too
            base.config.tie_word_embeddings = False
        merged: PreTrainedModel = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
        return merged
