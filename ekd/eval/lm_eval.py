"""EleutherAI's lm-evaluation-harness on a model of ours. Its package is optional: `pip install 'ekd[harness]'`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ekd.eval.metrics import Row


def run_tasks(
    load: Callable[[], PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    *,
    shots: int | None,
    chat: bool,
    limit: int | None,
    batch_size: int,
    seed: int,
    include: str | None,
) -> tuple[dict[str, float], dict[str, Any]]:
    """-> figures by task/metric, and what made them: shots and split of each task, versions, limit."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ValueError("the package lm-eval is not installed: `pip install 'ekd[harness]'`")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=include)
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        raise ValueError(
            f"lm-evaluation-harness has no task {', '.join(unknown)}; `lm-eval ls tasks` lists them, and "
            "include=FOLDER adds your own"
        )
    model = load()
    found = simple_evaluate(
        HFLM(model, tokenizer=tokenizer, batch_size=batch_size, device=str(model.device)),
        tasks=list(tasks),
        num_fewshot=shots,
        limit=limit,
        apply_chat_template=chat,
        task_manager=manager,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
        log_samples=False,
    )
    return _figures(found), _report(found, limit, chat)


def lm_eval_rows(report: dict[str, Any]) -> list[Row]:
    return [
        (f"{task['task']}, {task['shots']} shots, {task['split']} split", f"{name} {value:.4f} ± {error}")
        for task in report["tasks"]
        for name, (value, error) in task["metrics"].items()
    ]


def _figures(found: Any) -> dict[str, float]:
    return {
        f"{task}/{name.replace(',none', '')}": value
        for task, metrics in found["results"].items()
        for name, value in metrics.items()
        if isinstance(value, float)
    }


def _report(found: Any, limit: int | None, chat: bool) -> dict[str, Any]:
    tasks = []
    for task, config in found["configs"].items():
        metrics = found["results"][task]
        tasks.append(
            {
                "task": task,
                "version": found["versions"].get(task),
                "shots": found["n-shot"].get(task),
                "split": config.get("test_split") or config.get("validation_split"),
                "questions": found["n-samples"].get(task),
                "metrics": {
                    name.replace(",none", ""): (value, metrics.get(name.replace(",", "_stderr,"), "?"))
                    for name, value in metrics.items()
                    if "_stderr" not in name and isinstance(value, float)
                },
            }
        )
    return {"tasks": tasks, "limit": limit, "chat": chat, "lm_eval": found["lm_eval_version"]}
