"""From a store, a tokenizer and perhaps a dataset and a run to the token viewer's page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ekd.distill.fence import check_run, checked_part, config_of
from ekd.models.load import load_model, pick_device
from ekd.outside import check_tree
from ekd.report.viewer.grading import TraceGrader
from ekd.report.viewer.page import Subject, chosen_keys, setting, write_page
from ekd.report.viewer.spelling import ViewerSpelling
from ekd.report.viewer.student_view import StudentView, views
from ekd.store.store import Store
from ekd.types import Dataset, Trace

MAX_TOKENS = 4096  # of a batch that the student reads, padding included
UNGRADED = "Correctness is unknown: a store keeps no answers. Name the dataset that posed the problems: dataset="


def speaker(store: Store, run: str | None, tokenizer: str | None) -> str:
    """The model whose tokenizer wrote the ids. Raises ValueError where neither the user nor the store says it."""
    if tokenizer is not None:
        return tokenizer
    if run is not None:
        return str(student_of(run))
    model = setting(store.origin, "teacher", "model")
    if model and setting(store.origin, "teacher", "type") == "hf" and "align" not in store.origin:
        return str(model)
    raise ValueError(
        f"{store.path} does not say which tokenizer its ids are of: give tokenizer=MODEL, the student that it was "
        "traced for, for example tokenizer=Qwen/Qwen3-0.6B"
    )


def student_of(run: str) -> Path:
    folder = Path(run).expanduser() / "student"
    if not (folder / "config.json").is_file():
        raise ValueError(f"run={run} has no finished student (no {folder}): give the folder that ekd.train printed")
    check_run(folder.parent)
    return folder


def dataset_of(run: str, posed: str) -> dict[str, Any] | None:
    """The run's dataset as it was configured, if it is of the kind that posed the store's problems."""
    if not (Path(run).expanduser() / "run.json").is_file():
        return None
    config: dict[str, Any] = checked_part(config_of(Path(run).expanduser()), "dataset", decided={})
    return config if str(config.get("_target_")).rpartition(".")[2] == posed else None


def student_views(run: str, store: Store, traces: list[Trace]) -> list[StudentView]:
    """The run's student at every token."""
    device = pick_device("auto")
    model = load_model(str(student_of(run)), device=device).eval()
    return views(model, traces, store.layout.vocab, store.layout.draws, MAX_TOKENS)


def make(
    store: Store,
    spelling: ViewerSpelling,
    *,
    run: str | None,
    dataset: Dataset | None,
    limit: int,
    top: int,
    out: str | None,
) -> Path:
    """Reads, grades, lets the student read, and writes the page. -> its file"""
    check_tree(store.path, ["report"])
    traces = [store[key] for key in chosen_keys(store, limit)]
    name = str(store.origin.get("dataset", "")).lower()
    subject = Subject(
        name=store.path.resolve().name,
        graded=""
        if dataset is not None or any(trace.verdict for trace in traces)
        else f"{UNGRADED}{name or 'NAME'}, with the dataset.path= it had.",
        student="" if run is None else str(Path(run)),
    )
    return write_page(
        store.path / "report" if out is None else Path(out).expanduser(),
        store,
        traces,
        spelling,
        subject,
        top=top,
        grade=None if dataset is None else TraceGrader(dataset),
        views=None if run is None else student_views(run, store, traces),
    )
