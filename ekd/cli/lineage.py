"""Where a run's student comes from, for W&B: the traces go into the run, the student comes out of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger

from ekd.store.store import Store


def log_lineage(logger: WandbLogger, outcome: Mapping[str, Any], run: Path) -> None:
    """outcome: what metrics.json holds. Traces and weights stay where they lie, and W&B is told where that is.

    With `log_model` the student's own files are uploaded too. A run without a kept student has its traces only.
    """
    into = logger.experiment
    if into.disabled:
        return
    trained_on = (outcome["config"].get("source") or {}).get("paths") or []  # of source=stores
    for path in dict.fromkeys([outcome["traces"], *trained_on]):
        _use(into, _traces(str(path)))
    student = run / "student"
    if student.is_dir():
        made = {key: outcome[key] for key in ("method", "budget", "traces", "commit", "code")}
        artifact = wandb.Artifact(f"student-{into.id}", type="model", metadata=made)
        for file in sorted(file for file in student.rglob("*") if file.is_file()):  # of a folder, W&B would talk
            name = str(file.relative_to(student))
            if logger._log_model:  # Lightning's word; the logger offers no other way to ask
                artifact.add_file(str(file), name=name)
            else:
                artifact.add_reference(f"file://{file.resolve()}", name=name)  # its path, size and MD5
        into.log_artifact(artifact)


def _traces(place: str) -> wandb.Artifact:
    """Its version changes with what made the traces and with how many there are."""
    store = Store(place)
    name = re.sub(r"[^A-Za-z0-9._-]", "-", f"traces-{place.rstrip('/').rpartition('/')[2]}")
    artifact = wandb.Artifact(name[:128], type="traces", metadata={"traces": len(store)})
    with artifact.new_file("store.json") as file:
        json.dump({"path": place, "traces": len(store), "origin": store.origin}, file, indent=1)
    return artifact


def _use(run: Any, artifact: wandb.Artifact) -> None:
    """`use_artifact` refuses offline, though a sync would do what it does: log the artifact and mark it as used."""
    if run.offline:
        run._log_artifact(artifact, use_after_commit=True)
    else:
        run.use_artifact(artifact)
