"""Which model, and how it is loaded: said in one place, whoever asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ekd.models.load import check_layers, end_ids, load_model, load_tokenizer, pick_device, skeleton
from ekd.models.source import model_identity


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The seven words about a model. In conf/ they stand among a student's, a teacher's or a generator's other keys.

    model: a name as `ekd.models.load` knows them. layers, dtype, attention, quantize: see `load_model` there.
    device: auto, cpu, cuda, cuda:1, mps. trust_remote_code: run code that comes with the model.
    """

    model: str
    layers: Sequence[int] | str
    dtype: str
    attention: str
    quantize: str | None
    device: str
    trust_remote_code: bool

    @classmethod
    def of(cls, words: Mapping[str, Any], **further: Any) -> ModelSpec:
        """words: what an actor was given (`vars(self)`), of which some are not about its model. further: what it
        leaves unsaid.
        """
        given = {**words, **further}
        return cls(**{field.name: given[field.name] for field in fields(cls)})

    def load(self) -> PreTrainedModel:
        return load_model(
            self.model,
            layers=self.layers,
            dtype=self.dtype,
            quantize=self.quantize,
            attention=self.attention,
            device=pick_device(self.device),
            trust_remote_code=self.trust_remote_code,
        )

    def load_writer(self) -> tuple[PreTrainedModel, set[int]]:
        """The model as it generates, and the ids after which a text of it is over."""
        model = self.load().eval()
        return model, end_ids(model, self.tokenizer())

    def skeleton(self) -> PreTrainedModel:
        made: PreTrainedModel = skeleton(
            self.model,
            layers=self.layers,
            dtype=self.dtype,
            attention=self.attention,
            trust_remote_code=self.trust_remote_code,
        )
        return made

    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.model, trust_remote_code=self.trust_remote_code)

    def identity(self) -> dict[str, str | int]:
        return model_identity(self.model, self.trust_remote_code)

    def origin(self) -> dict[str, Any]:
        """What decides the numbers that the loaded model gives: not where it runs, or how it attends."""
        layers = self.layers if isinstance(self.layers, str) else list(self.layers)
        return {**self.identity(), "layers": layers, "dtype": self.dtype, "quantize": self.quantize}

    def check_layers(self) -> None:
        check_layers(self.model, self.layers, trust_remote_code=self.trust_remote_code)
