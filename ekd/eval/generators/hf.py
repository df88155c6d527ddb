"""A model that this process loads and lets answer, through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ekd.eval.benchmark import Benchmark, Solver
from ekd.files import digest
from ekd.models.checkpoint import restore
from ekd.models.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class HF:
    """See `ekd.models.spec.ModelSpec`. checkpoint: one of Lightning's, whose weights replace the model's, or null."""

    model: str
    checkpoint: str | None
    layers: Sequence[int] | str
    dtype: str
    quantize: str | None
    attention: str
    device: str
    trust_remote_code: bool

    def origin(self) -> dict[str, Any]:
        made = self.spec.origin()
        if self.checkpoint is not None:
            made |= {"checkpoint": self.checkpoint, "checkpoint_digest": _digest(Path(self.checkpoint))}
        return {"type": "hf", "model": self.model, **made}

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec.of(vars(self))

    def solver(self, benchmark: Benchmark, tokenizer: PreTrainedTokenizerBase) -> Solver:
        return benchmark.by_model(self.load, tokenizer)

    def load(self) -> PreTrainedModel:
        model: PreTrainedModel = self.spec.load().eval()
        if self.checkpoint is not None:
            restore(model, Path(self.checkpoint), f"{self.model} with layers={self.layers}")
        return model


def _digest(checkpoint: Path) -> str:
    if not checkpoint.is_file():
        raise ValueError(f"there is no checkpoint {checkpoint}; a run's are in RUN/checkpoints")
    return digest(checkpoint)[:16]
