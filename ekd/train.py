"""python -m ekd.train: trace what is missing, train the student on the chosen tokens, judge it, say what came out."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ekd.door import build, door, name_job, provenance

if TYPE_CHECKING:
    import lightning as L
    from rich.table import Table

    from ekd.data import TraceData
    from ekd.exam import Exam
    from ekd.student import Student


def main(config: DictConfig) -> int:
    import lightning as L
    import torch
    from rich import print as show

    from ekd.pairs import check_pairs
    from ekd.report.run import table

    began, run = monotonic(), Path(HydraConfig.get().runtime.output_dir)
    L.seed_everything(config.seed, workers=True, verbose=False)
    data, student, exam = build(config.data), build(config.student), build(config.exam)
    check_pairs(data, student)
    if config.plan:
        show(planned(config, data, student))
        return 0
    callbacks, loggers = build(config.callback), build(config.logger)
    trainer = build(config.trainer, callbacks=list(callbacks.values()), logger=list(loggers.values()))
    made = {"config": OmegaConf.to_container(config, resolve=True), **provenance()}
    if trainer.is_global_zero:
        (run / "run.json").write_text(json.dumps(made, indent=1))
    for logger in trainer.loggers:
        logger.log_hyperparams(made)

    if starts_ranks(trainer):
        data.prepare_data()  # before they start: a mistake is answered once, and nobody waits for the teacher
        name_job()
    before = {} if config.ckpt else trainer.validate(student, data, verbose=False)[0]
    trainer.fit(student, data, ckpt_path=config.ckpt, weights_only=True)
    if callbacks["interrupt"].path:
        if trainer.is_global_zero:
            print(f"\nstopped after step {trainer.global_step}; go on with ckpt={callbacks['interrupt'].path}")
        return 130
    train = {
        "selected": int(student.supervised) / max(int(student.offered), 1),
        "supervised_tokens": int(student.supervised),
        "tokens_per_second": student.speed["tokens"] / max(student.speed["seconds"], 1e-9),
    }
    after = trainer.validate(student, data, verbose=False)[0]
    if not trainer.is_global_zero:
        return 0
    folder = run / "student"
    student.save(folder)
    data.collector.spoken.save_pretrained(folder)
    exams = judge(config, exam, data, student, run)
    for logger in trainer.loggers:
        logger.log_metrics(flat(exams, type(exam.dataset).__name__.lower()), step=trainer.global_step)
    cuda = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    figures = {
        "before": before,
        "after": after,
        "train": train,
        "exams": exams,
        "peak_memory_gb": cuda or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "minutes": (monotonic() - began) / 60,
    }
    (run / "metrics.json").write_text(json.dumps({"figures": figures, **made}, indent=1))
    for logger in trainer.loggers:
        logger.finalize("success")
    show(table(figures))
    print(f"student     {folder}\ncheckpoint  {callbacks['checkpoint'].last_model_path or 'none'}")
    print(f"metrics     {run / 'metrics.json'}\ntraces      {data.store.path}")
    return 0


def planned(config: DictConfig, data: TraceData, student: Student) -> Table:
    from ekd.plan import largest, plan, table

    precision, packing = str(config.trainer.precision), data.packing
    most = largest(student, config.plan_gb, precision, packing=packing)
    now = plan(student, data.max_tokens, precision, packing=packing)
    student.gradient_checkpointing = True
    return table(now, most, config.plan_gb, largest(student, config.plan_gb, precision, packing=packing))


def starts_ranks(trainer: L.Trainer) -> bool:
    """Whether Lightning will run this command again for each further rank (torchrun and SLURM have done it)."""
    from lightning.pytorch.strategies import ParallelStrategy

    ranks = trainer.strategy.cluster_environment if isinstance(trainer.strategy, ParallelStrategy) else None
    return trainer.world_size > 1 and ranks is not None and not ranks.creates_processes_externally


def judge(config: DictConfig, exam: Exam, data: TraceData, student: Student, run: Path) -> dict[str, dict[str, float]]:
    """The teacher's and the untrained student's answers are kept for the next run; they do not change."""
    from ekd.model import home, pick_device

    if exam.problems == 0:
        return {}
    tokenizer, teacher, kept = data.collector.spoken, data.collector.teacher, home() / "exams"
    device = pick_device("auto")
    pupil: Any = student  # the type that transformers gives to a model's `to` is not callable
    sittings: dict[str, Any] = {}
    if config.judge.teacher:
        path = kept / f"{exam.identity(teacher.origin(), tokenizer)}.jsonl"
        sittings["teacher"] = (exam.by_teacher(teacher), path)
    if config.judge.before:
        path = kept / f"{exam.identity(student.origin(), tokenizer)}.jsonl"
        sittings["student before"] = (exam.by_model(lambda: pupil.load().to(device), tokenizer), path)
    trained = exam.by_model(lambda: pupil.model.to(device), tokenizer)
    sittings["student after"] = (trained, run / "answers.jsonl")
    return {who: exam.summary(exam.sit(tokenizer, solve, path, who).answers) for who, (solve, path) in sittings.items()}


def flat(exams: dict[str, dict[str, float]], dataset: str) -> dict[str, float]:
    """Metric names are paths: eval/arithmetic/student_after/accuracy."""
    return {
        f"eval/{dataset}/{who.replace(' ', '_')}/{name}": float(value)
        for who, result in exams.items()
        for name, value in result.items()
    }


if __name__ == "__main__":
    door("train", main)
