"""Which defaults follow from the model that is named: what suits the embedded one would harm, or cut short, another."""

from __future__ import annotations

import re
from pathlib import Path

EMBEDDED = "smollm2"  # as `ekd.models.source` has it, which takes seconds to import
RATES = {"anew": 1e-3, "adapters": 2e-4, "whole": 2e-5}


def rate(model: str, layers: object, lora: object) -> float:
    """The peak learning rate where none is given. What is made of parts learns nearly anew; a whole pretrained model
    would forget at that rate (2e-5 is what is usual for AdamW on all of its weights, ten times that for LoRA).
    """
    cut = layers not in ("all", "auto") or (model == EMBEDDED and layers == "auto")
    return RATES["anew" if cut or tiny(model) else "adapters" if lora else "whole"]


def small(model: str, then: object, otherwise: object) -> object:
    """A value that suits the embedded model and the tests' ones, and another for every other model."""
    return then if model == EMBEDDED or tiny(model) else otherwise


def precision() -> str:
    """bf16-mixed on a processor that multiplies bfloat16 itself, where a step takes less than half as long; else
    32-true. (docs/bench_prefix.md has the table.)
    """
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return "bf16-mixed" if flags & {"avx512_bf16", "amx_bf16"} else "32-true"


def answer_precision(precision: object) -> str:
    """Of a benchmark in a run of this trainer.precision: where that is mixed, the same; else that of the weights."""
    name = {"bf16": "bf16-mixed", "16": "16-mixed"}.get(str(precision), str(precision))
    return name if name.endswith("-mixed") else "32-true"


def tiny(model: str) -> bool:
    return re.fullmatch(r"tiny(:\d+)?", model) is not None
