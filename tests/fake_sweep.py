"""A sweep's folder whose truth is known, written without training anything."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ekd.method import Method, method_of

BANDS = [f"bucket_{low}_{low + 10}" for low in range(0, 100, 10)]
METHODS = [
    "vanilla", "teacher_free", "random_10", "random_15", "random_20", "topk_10", "topk_15", "topk_20", *BANDS,
    "bucket_5_20", "bucket_75_95",
]  # fmt: skip
CONFIG = {
    "selector": {"_target_": "ekd.selector.vanilla.Vanilla"},
    "signal": {"_target_": "ekd.signal.teacher_entropy.TeacherEntropy"},
    "loss": {"_target_": "ekd.loss.forward_kl.ForwardKL"},
    "teacher": {"_target_": "ekd.teacher.hf.HF", "model": "tiny:1"},
    "student": {"model": "tiny", "optimizer": {"lr": 0.001}},
    "dataset": {"_target_": "ekd.dataset.arithmetic.Arithmetic"},
    "trainer": {"max_steps": 60},
}


def share(method: str) -> float:
    numbers = [float(part) for part in method.split("_") if part.isdigit()]
    return 1.0 if not numbers else (numbers[-1] - (numbers[0] if len(numbers) == 2 else 0)) / 100


def selector(method: str) -> dict[str, Any]:
    """The config of vanilla, random_10, topk_20, bucket_70_80."""
    kind, *numbers = method.replace("teacher_free", "vanilla").split("_")
    target = {"vanilla": "vanilla.Vanilla", "random": "random.Random", "topk": "topk.TopK", "bucket": "bucket.Bucket"}
    values = dict(zip(("lower", "upper") if kind == "bucket" else ("k_percent",), map(float, numbers), strict=False))
    return {"_target_": f"ekd.selector.{target[kind]}", **values, **({"scope": "sequence"} if values else {})}


def method(name: str) -> Method:
    return method_of(configured(name, 0))


def configured(name: str, seed: int) -> dict[str, Any]:
    student = {**CONFIG["student"], "alpha_ce": 1.0 if name == "teacher_free" else 0.0}
    return {**CONFIG, "selector": selector(name), "student": student, "seed": seed}


def made(method: str, seed: int, kl: float, **changes: Any) -> dict[str, Any]:
    """What a run's metrics.json holds; changes: of its top level."""
    deciles = {f"choice/kl/decile{d}": kl * (0.4 + 0.12 * d) for d in range(10)}
    choice = {"choice/share": share(method), "choice/overlap/teacher_top20": 0.3, "choice/overlap/random20": 0.2}
    choice |= {f"choice/kind/{side}/{kind}": 0.25 for side in ("chosen", "left") for kind in ("digits", "words")}
    before = {"val/kl": 16.0, "val/agreement": 0.0, "val/ce": 17.0, "val/entropy": 10.0}
    before |= {f"choice/kl/decile{d}": 16.0 + d / 10 for d in range(10)}
    figures = {
        "before": before,
        "after": {
            "val/kl": kl,
            "val/agreement": 1 / (1 + kl),
            "val/ce": kl + 1,
            "val/entropy": 2.0,
            **deciles,
            **choice,
        },
        "train": {
            "selected": share(method),
            "supervised_tokens": int(30_000 * share(method)),
            "tokens_per_second": 400.0,
        },
        "benchmark": {},
        "peak_memory_gb": 2.5,
        "minutes": 3.0,
        "trace_entropy": {"edges": [0, 0.5, 1, 1.5, 2, 2.5, 3], "counts": [5000, 900, 400, 200, 80, 20]},
    }
    top = {
        "method": method, "budget": "steps", "traces": "/traces", "config": configured(method, seed),
        "command": ["ekd/train.py", "-m", "experiment=bucket_sweep"], "ekd": "0.1.0", "commit": "c" * 40,
        "changed": False, "versions": {"torch": "2.13.0"},
    }  # fmt: skip
    return {"figures": figures, **top, **changes}


def write_cell(folder: Path, content: dict[str, Any]) -> Path:
    (folder / "csv").mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(content))
    figures = content["figures"]
    kl, tokens = figures["after"]["val/kl"], figures["train"]["supervised_tokens"]
    lines = ["step,train/supervised_tokens,val/kl"]
    lines += [f"{step},,{kl + (16 - kl) * 0.93**step}" for step in (0, 9, 19, 29, 39, 49, 59)]
    lines += [f"{step},{tokens * (step + 1) / 60},\n{step},," for step in range(4, 60, 5)]
    (folder / "csv" / "metrics.csv").write_text("\n".join(lines) + "\n")
    return folder


def flat_truth(method: str) -> float:
    """Nothing matters."""
    return 1.5


def hill_truth(method: str) -> float:
    """High bands teach most, vanilla beats all, a teacher-free run is far off."""
    if method in ("vanilla", "teacher_free"):
        return 1.2 if method == "vanilla" else 1.9
    if not method.startswith("bucket"):
        return 1.5 - 0.1 * method.startswith("topk")
    low, high = (int(part) for part in method.split("_")[1:])
    return 1.8 - 0.5 * ((low + high) / 200) ** 0.7


def write_sweep(
    path: Path,
    *,
    truth: Callable[[str], float] = hill_truth,
    methods: Sequence[str] = METHODS,
    seeds: Sequence[int] = (0, 1, 2),
    shared: float = 0.05,
    own: float = 0.01,
    budget: str = "steps",
    rng: int = 0,
    **changes: Any,
) -> Path:
    """shared, own: nats of noise that the methods of a seed have in common, and that each run has for itself."""
    random = np.random.default_rng(rng)
    common = {seed: random.normal(0, shared) for seed in seeds}
    for method in methods:
        for seed in seeds:
            kl = truth(method) + common[seed] + random.normal(0, own)
            write_cell(path / budget / method / f"seed_{seed}", made(method, seed, kl, budget=budget, **changes))
    return path
