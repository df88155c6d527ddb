"""From a store, a tokenizer and perhaps a dataset and a run to the token viewer's page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ekd.distill.fence import check_run, checked_part, config_of
from ekd.models.load import load_model, pick_device
from ekd.outside import check_tree
from ekd.report.viewer.grading import TraceGrader
from ekd.report.viewer.page import Subject, setting, write_page
from ekd.report.viewer.spelling import ViewerSpelling, viewer_spelling
from ekd.report.viewer.student_view import StudentView, views
from ekd.store.store import Store
from ekd.types import Dataset, Trace

MAX_TOKENS = 4096  # of a batch that the student reads, padding included
TOP = 8  # alternatives of a token, where nobody asks for another number
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


def student_views(model: PreTrainedModel, store: Store, traces: list[Trace]) -> list[StudentView]:
    """What the student thinks at every token."""
    return views(model.eval(), traces, store.layout.vocab, store.layout.draws, MAX_TOKENS)


def student_from(run: str) -> PreTrainedModel:
    return load_model(str(student_of(run)), device=pick_device("auto"))


def grader(
    store: Store, traces: list[Trace], spelling: ViewerSpelling, dataset: Dataset | None, *, guessed: bool
) -> TraceGrader | None:
    """None where no dataset is known, or the guessed one posed none of these problems.

    Raises ValueError where that is so of a dataset that the user named.
    """
    if dataset is None:
        return None
    found = TraceGrader(dataset)
    if any(found.poses(one, "".join(spelling.stretches(one.prompt_ids.tolist()))) for one in traces):
        return found
    if guessed:
        return None
    raise ValueError(
        f"none of the problems of {store.path} is the dataset's: give the one that posed them, with the path or "
        f"seed that it had then (the store names {store.origin.get('dataset', 'none')}), or leave dataset= out"
    )


def run_viewer(
    run: Path,
    store: Store,
    keys: list[str],
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    dataset: Dataset,
) -> Path:
    """RUN/report/traces.html: some solutions as the run's student, which is still in memory, sees them."""
    check_tree(run, ["report"])
    spelling, out = viewer_spelling(tokenizer, str(run)), run / "report"
    return make(store, spelling, keys, run=str(run), model=model, dataset=dataset, guessed=True, top=TOP, out=out)


def make(
    store: Store,
    spelling: ViewerSpelling,
    keys: list[str],
    *,
    run: str | None,
    model: PreTrainedModel | None,
    dataset: Dataset | None,
    guessed: bool = False,
    top: int,
    out: Path,
) -> Path:
    """Reads, grades, lets the student read, and writes the page. -> its file

    model: the student of `run`. guessed: nobody said that `dataset` posed the problems; if it did not, none grades.
    """
    traces = [store[key] for key in keys]
    grade = grader(store, traces, spelling, dataset, guessed=guessed)
    name = str(store.origin.get("dataset", "")).lower()
    more = f"python -m ekd.report traces={store.path}{'' if run is None else f' run={run}'} limit={len(store)}"
    subject = Subject(
        name=store.path.resolve().name if isinstance(store.path, Path) else store.path.name,
        graded=""
        if grade is not None or any(trace.verdict for trace in traces)
        else f"{UNGRADED}{name or 'NAME'}, with the dataset.path= it had.",
        student="" if run is None else str(Path(run)),
        rest=""
        if len(keys) >= len(store)
        else f"{len(keys):,} of the store’s {len(store):,} traces; {more} shows all.",
    )
    return write_page(
        out,
        store,
        traces,
        spelling,
        subject,
        top=top,
        grade=grade,
        views=None if model is None else student_views(model, store, traces),
    )
