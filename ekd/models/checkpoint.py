"""Checkpoints that say whose they are, and of which every bit is checked before anything is read from them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor, nn

from ekd.files import Damaged, digest, sync
from ekd.renamed import current_key, current_value

MARK = b"ekd sha256 "  # begins the comment that ends the zip file
COMMENT = len(MARK) + 64
END = b"PK\x05\x06"  # of a zip file's last record: 22 bytes, the last two the length of the comment
RUN = "ekd_run"  # the run's settings within a checkpoint
STUDENT = "model."  # how a checkpoint calls the student's weights

# What may differ where a run goes on: where it runs, what is watched and what is kept, and how far it goes.
FREE = {
    *("ckpt", "ckpt_from", "save_student", "keep_checkpoints", "viewer", "plan", "plan_gb", "logger", "hydra"),
    *("benchmark", "baselines", "engine", "data.collector.engine"),
    *(f"trainer.{name}" for name in ("accelerator", "devices", "num_nodes", "strategy", "max_steps", "max_time")),
    *(f"trainer.{name}" for name in ("profiler", "val_check_interval", "check_val_every_n_epoch", "log_every_n_steps")),
    *(f"trainer.{name}" for name in ("num_sanity_val_steps", "default_root_dir", "enable_progress_bar", "benchmark")),
    *(f"callback.{name}" for name in ("checkpoint", "interrupt", "learning_rate", "progress", "best", "benchmark")),
    *("callback.early_stop", "data.workers", "data.collector.store", "student.head_mb", "student.compile"),
    *("student.gradient_checkpointing", "student.attention", "student.start"),
    *(f"{where}.{name}" for where in ("teacher", "data.collector.teacher") for name in ("batch_size", "device")),
    *(f"{where}.{name}" for where in ("teacher", "data.collector.teacher") for name in ("attention", "concurrency")),
    *(f"{where}.{name}" for where in ("teacher", "data.collector.teacher") for name in ("endpoints", "api_key_env")),
    *(f"{where}.{name}" for where in ("teacher", "data.collector.teacher") for name in ("attempts", "backoff")),
    *(f"{where}.{name}" for where in ("teacher", "data.collector.teacher") for name in ("timeout", "patience")),
}


def deciding(config: dict[str, Any], **further: Any) -> dict[str, Any]:
    """Of a resolved config what decides the weights, as dotted keys; whatever the code is."""
    found = {key: value for key, value in _flat(config).items() if not _free(key)}
    budget = found.pop("student.supervised_tokens", None)
    return found | {"budget": "steps" if budget is None else "tokens"} | further


def _free(key: str) -> bool:
    parts = key.split(".")
    return any(".".join(parts[:n]) in FREE for n in range(1, len(parts) + 1))


def _flat(node: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(node, dict) or not node:
        return {name: node}
    parts = [_flat(value, f"{name}.{key}" if name else str(key)) for key, value in node.items()]
    return {key: value for part in parts for key, value in part.items()}


class Checkpoints(TorchCheckpointIO):
    """Writes a run's settings and a sha256 into each checkpoint; refuses another run's and a damaged one."""

    def __init__(self, run: dict[str, Any], max_steps: int) -> None:
        self.run, self.max_steps = run, max_steps

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save(checkpoint | {RUN: self.run}, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        checkpoint = load(Path(path))
        check_same_run(Path(path), checkpoint.get(RUN), self.run)
        if 0 <= self.max_steps < checkpoint["global_step"]:
            raise ValueError(
                f"ckpt={path} is of step {checkpoint['global_step']}, beyond trainer.max_steps={self.max_steps}: "
                f"set it higher, or start anew without ckpt="
            )
        return checkpoint


def check_same_run(path: Path, there: Any, here: dict[str, Any]) -> None:
    """Raises ValueError, which names both sides of what differs."""
    if not isinstance(there, dict):
        raise ValueError(f"ckpt={path} does not say which run it is of; take its weights alone with ckpt_from={path}")
    there = {current_key(name): current_value(name, value) for name, value in there.items()}
    names = sorted({*there, *here}, key=lambda name: (name.count("."), name))
    unlike = [name for name in names if there.get(name) != here.get(name)]
    if unlike:
        said = "; ".join(f"{n} is {there.get(n)!r} there, {here.get(n)!r} here" for n in unlike[:3])
        more = f" (and {len(unlike) - 3} more)" if len(unlike) > 3 else ""
        raise ValueError(
            f"ckpt={path} is of another run: {said}{more}; give the command that made it, or take its weights alone "
            f"with ckpt_from={path}"
        )


def save(checkpoint: dict[str, Any], path: Path) -> None:
    """torch's zip file with its sha256 as the zip's comment: whole or absent, and on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.tmp")
    try:
        torch.save(checkpoint, fresh)
        with fresh.open("r+b") as file:
            file.seek(-22, os.SEEK_END)
            if not file.read(4) == END:
                raise Damaged(f"{fresh} does not end as a zip file does: the disk may be full")
            file.seek(-2, os.SEEK_END)
            file.write(COMMENT.to_bytes(2, "little"))
        found = digest(fresh)
        with fresh.open("ab") as file:
            file.write(MARK + found.encode())
        sync(fresh)
        fresh.replace(path)
        sync(path.parent)
    finally:
        fresh.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Raises ValueError for one that is missing or not as it was written. Nothing in it is run (weights_only)."""
    check_checkpoint(path)
    # mapped: several ranks of a machine share the pages, and one that wants its rows alone reads no others
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return loaded


def check_checkpoint(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}; a run's are in RUN/checkpoints")
    if not is_whole(path):
        raise Damaged(f"{path} is damaged, torn or not a checkpoint of ekd: its sha256 is missing or does not match")


def is_whole(path: Path) -> bool:
    size = path.stat().st_size - COMMENT
    if size < 22:
        return False
    with path.open("rb") as file:
        file.seek(size)
        comment = file.read()
    return comment == MARK + digest(path, size).encode()


def about_checkpoint(path: Path) -> dict[str, str]:
    """Of a checkpoint that was checked: which file, and what was in it."""
    with path.open("rb") as file:
        file.seek(-64, os.SEEK_END)
        return {"file": str(path), "sha256": file.read().decode()}


def restore(model: nn.Module, path: Path, name: str, *, partly: bool = False) -> None:
    """The student's weights from a checkpoint. partly: those that are frozen may be missing there (adapters)."""
    weights: dict[str, Tensor] = load(path)["state_dict"]
    weights = {key.removeprefix(STUDENT): value for key, value in weights.items() if key.startswith(STUDENT)}
    wanted = {key for key, parameter in model.named_parameters() if parameter.requires_grad} if partly else set()
    try:
        if not wanted <= set(weights) <= set(model.state_dict()):
            raise RuntimeError("not the same names")
        model.load_state_dict(weights, strict=not partly)
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not hold the weights of {name}: name the run that made it, or the saved student "
            "(student.model=RUN/student)"
        ) from error
