"""What a finished run leaves with its loggers: the figures that `ekd dashboard` reads, and for W&B some tables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from ekd.eval.answers import read_answers
from ekd.types import Problem

ID = "wandb_id"  # in a run's folder
ANSWERS = 100  # so many of a run's answers are shown
OTHERS = ("before", "teacher")  # who answered the same problems: RUN/answers_NAME.jsonl
COLUMNS = ["problem", "question", "answer", "response", "extracted", "correct", "tokens"]
COLUMNS += [f"{who}{what}" for who in OTHERS for what in ("", "_correct")]
BINS = ["nats", "tokens", "from", "to"]  # of a histogram; nats: a bin's middle


def begin_logs(loggers: Sequence[Logger], made: Mapping[str, Any], run: Path, ckpt: str | None, *, here: bool) -> None:
    """What made the run, to every logger. here: on the one rank that writes.

    A W&B run that goes on, in its folder or from the `ckpt` of another, keeps the id that RUN/wandb_id holds, so that
    both parts are one run there.
    """
    for logger in loggers:
        if here and isinstance(logger, WandbLogger):
            keep_id(logger, run, ckpt)
        logger.log_hyperparams(dict(made))


def keep_id(logger: WandbLogger, run: Path, ckpt: str | None) -> None:
    """Before its first call, which starts the W&B run. An id that the user gave stays."""
    words = logger._wandb_init  # Lightning offers no other way: its id is fixed before the run's folder is looked at
    if words.get("id") is None:
        places = [run] if ckpt is None else [run, Path(ckpt).parent.parent]
        kept = [file for place in places if (file := place / ID).is_file()]
        own = os.environ.get("WANDB_RUN_ID")  # of an agent (`wandb agent`), whose run this is to be
        given = kept[0].read_text().strip() if kept else own or token_hex(4)
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", given):
            where = kept[0] if kept else "WANDB_RUN_ID"
            raise ValueError(f"{where} holds no id of a W&B run: remove it, and this part is a run of its own there")
        words["id"] = given
        words["resume"] = "allow" if kept and words.get("mode") != "offline" and not logger._offline else None
    (run / ID).write_text(f"{words['id']}\n")


def log_outcome(
    loggers: Sequence[Logger],
    outcome: Mapping[str, Any],
    metrics: Mapping[str, float],
    problems: Sequence[Problem],
    run: Path,
    step: int,
) -> list[str]:
    """outcome: what metrics.json holds. metrics: eval/*. problems: of the benchmark. run: the folder, whose answers may
    be absent. Closes the loggers; returns a line on each W&B run: its page, or how to upload it.
    """
    figures = outcome["figures"]
    tables = {"answers": (COLUMNS, sample(problems, run))}
    if "trace_entropy" in figures:
        tables["trace_entropy"] = (BINS, bins(**figures["trace_entropy"]))
    for logger in loggers:
        logger.log_metrics({**metrics, **headline(outcome)}, step=step)
        if isinstance(logger, WandbLogger):
            from ekd.cli.lineage import log_lineage  # here: it loads W&B, which half of the runs do without

            for name, (columns, rows) in tables.items():
                logger.log_table(name, columns, rows, step=step)
            log_lineage(logger, outcome, run)
        logger.finalize("success")
    return [line for logger in loggers if isinstance(logger, WandbLogger) for line in whereabouts(logger)]


def headline(outcome: Mapping[str, Any]) -> dict[str, float]:
    """run/*: what came out, by the same name whatever the dataset. bucket/*: percentiles, of a run with a bucket."""
    figures, selector = outcome["figures"], outcome["config"]["selector"]
    found = {
        "run/kl_after": figures["after"]["val/kl"],
        "run/agreement_after": figures["after"]["val/agreement"],
        "run/selected": figures["train"]["selected"],
        "run/supervised_tokens": figures["train"]["supervised_tokens"],
        "run/tokens_per_second": figures["train"]["tokens_per_second"],
        "run/peak_memory_gb": figures["peak_memory_gb"],
        "run/minutes": figures["minutes"],
    }
    if figures["before"]:
        found["run/kl_before"] = figures["before"]["val/kl"]
    if benchmark := figures["benchmark"].get("student after"):
        found |= {f"run/{name}": benchmark[name] for name in ("accuracy", "accuracy_low", "accuracy_high")}
    if "lower" in selector and "upper" in selector:
        lower, upper = selector["lower"], selector["upper"]
        bounds = {"lower": lower, "upper": upper, "width": upper - lower, "centre": (lower + upper) / 2}
        found |= {f"bucket/{name}": value for name, value in bounds.items()}
    return {name: float(value) for name, value in found.items()}


def sample(problems: Sequence[Problem], run: Path) -> list[list[Any]]:
    """Rows of COLUMNS: the student's first answers to the benchmark, as they came, beside what others answered."""
    questions = {problem.id: problem.question for problem in problems}
    answers = list(read_answers(run / "answers.jsonl").values())
    others = [read_answers(run / f"answers_{who}.jsonl") for who in OTHERS]
    rows: list[list[Any]] = []
    for a in [a for a in answers[:ANSWERS] if a.problem_id in questions]:
        row = [a.problem_id, questions[a.problem_id], a.reference, a.text, a.extracted, a.status == "correct", a.tokens]
        for found in others:
            other = found.get((a.problem_id, a.sample))
            row += [None, None] if other is None else [other.text, other.status == "correct"]
        rows.append(row)
    return rows


def bins(edges: Sequence[float], counts: Sequence[int]) -> list[list[float]]:
    """Rows of BINS."""
    return [[(a + b) / 2, count, a, b] for a, b, count in zip(edges[:-1], edges[1:], counts, strict=True)]


def whereabouts(logger: WandbLogger) -> list[str]:
    run = logger.experiment
    if run.disabled:
        return []
    return [f"W&B         {f'wandb sync {Path(run.dir).parent}' if run.offline else run.url}"]
