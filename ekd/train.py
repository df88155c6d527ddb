"""python -m ekd.train: trace what is missing, train on the chosen tokens, evaluate the student, say what came out."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ekd.cli.door import build, door, name_job, provenance

if TYPE_CHECKING:
    import lightning as L
    from lightning.pytorch.callbacks import ModelCheckpoint

    from ekd.data.cached import TraceData
    from ekd.distill.run_folder import Standing
    from ekd.distill.student import Student
    from ekd.eval.benchmark import Benchmark


def main(config: DictConfig) -> int:
    import lightning as L
    from torch import get_num_threads

    from ekd.distill.compatibility import check_compatibility
    from ekd.distill.memory_plan import peak_memory
    from ekd.distill.run_folder import hold
    from ekd.distill.strategy import check_strategy
    from ekd.models.checkpoint import Checkpoints, deciding

    began, run = monotonic(), Path(HydraConfig.get().runtime.output_dir)
    peak_memory(reset=True)
    L.seed_everything(config.seed, workers=True, verbose=False)
    check_start(config)
    data, student, benchmark = build(config.data), build(config.student), build(config.benchmark)
    benchmark.questions()  # what cannot be asked is said before anything is traced
    check_compatibility(data, student)
    student.pace.check_budget(config.trainer.max_steps)
    memory = plan_memory(config, data, student) if config.plan else {}
    if config.plan is True:
        return 0
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    made = {"config": resolved, **provenance(), **names(resolved), "folder": str(run), "threads": get_num_threads()}
    made["student"] = student.origin()  # a folder by the same name may hold another model by now
    made["start"] = student.start
    callbacks, loggers = build(config.callback), build(config.logger)
    trainer = build(config.trainer, callbacks=list(callbacks.values()), logger=list(loggers.values()))
    check_strategy(trainer.strategy, student)
    own = deciding(resolved, student=made["student"], ranks=trainer.world_size)
    trainer.strategy.checkpoint_io = Checkpoints(own, config.trainer.max_steps)
    with hold(run, wait=HydraConfig.get().mode == RunMode.MULTIRUN) if trainer.is_global_zero else nullcontext():
        return go(config, run, made, (data, student, benchmark), trainer, callbacks, began, memory)


def go(
    config: DictConfig,
    run: Path,
    made: dict[str, Any],
    parts: tuple[TraceData, Student, Benchmark],
    trainer: L.Trainer,
    callbacks: dict[str, Any],
    began: float,
    memory: dict[str, float],
) -> int:
    """The run itself, in a folder that is this process's alone."""
    from ekd.distill.interrupt import Trained
    from ekd.distill.memory_plan import peak_memory
    from ekd.distill.run_folder import standing
    from ekd.files import make_folder
    from ekd.report.pages import run_pages

    data, student, benchmark = parts
    now = standing(run, made)
    if now.finished:
        print(f"finished before, with the same config and code: {run / 'metrics.json'}")
        mend(run)
        return 0
    begin(config, run, made, now, trainer)
    peak = learn(trainer, student, data, config.ckpt or now.ckpt, measure=bool(memory))
    if callbacks["interrupt"].path:
        if trainer.is_global_zero:
            print(f"\nstopped after step {trainer.global_step}; go on with ckpt={callbacks['interrupt'].path}")
        return 130
    with Trained(callbacks["interrupt"].done, callbacks["checkpoint"].last_model_path, here=trainer.is_global_zero):
        after = trainer.validate(student, data, verbose=False)[0]
        if not student.gather():
            return 0
        if config.save_student:  # before metrics.json, whose presence says that the run is complete
            make_folder(run / "student", partial(save_student, student, data))
        figures = {
            **{"before": student.before, "after": after, "train": trained(student), **data.account()},
            "benchmark": run_benchmark(config, benchmark, data, student, run),
            **{"peak_memory_gb": peak_memory(), "minutes": student.minutes + (monotonic() - began) / 60},
            "step_memory_gb": memory | {"measured": peak} if memory else {},
        }
        made |= {"start": student.start, "traces": str(data.store.path)}  # of a run that went on: what it began with
        logged = keep(run, {"figures": figures, **made}, trainer, benchmark)
        with trainer.precision_plugin.forward_context():  # as its validation read
            pages = run_pages(run, data, student.model, config.viewer, alone=HydraConfig.get().mode == RunMode.RUN)
    print(f"student     {run / 'student' if config.save_student else 'not kept (save_student=false)'}")
    print(f"checkpoint  {tidy(callbacks['checkpoint'], keep=config.keep_checkpoints)}")
    rounds = [f"rounds      {where}"] if data.source and (where := data.source.written(data)) else []
    print(f"metrics     {run / 'metrics.json'}\ntraces      {data.store.path}", *rounds, *logged, *pages, sep="\n")
    return 0


def begin(config: DictConfig, run: Path, made: dict[str, Any], now: Standing, trainer: L.Trainer) -> None:
    """Says what is begun: in the folder, after what it held is out of the way, and to the loggers."""
    from ekd.cli.label import opening
    from ekd.cli.run_log import begin_logs
    from ekd.distill.run_folder import make_room
    from ekd.files import write_json

    if trainer.is_global_zero:
        make_room(run, now, config.ckpt)
        write_json(run / "run.json", made)
        if HydraConfig.get().mode == RunMode.RUN:  # a sweep says its own
            print(*opening(made["config"], made["method"], trainer.strategy.root_device.type), sep="\n")
    begin_logs(trainer.loggers, made, run, config.ckpt, here=trainer.is_global_zero)


def check_start(config: DictConfig) -> None:
    """Before any work: where the weights come from."""
    from ekd.models.checkpoint import check_checkpoint

    if config.ckpt is not None and config.ckpt_from is not None:
        raise ValueError(
            f"ckpt={config.ckpt} goes on with a run and ckpt_from={config.ckpt_from} starts one: give one of them"
        )
    for path in (config.ckpt, config.ckpt_from):
        if path is not None:
            check_checkpoint(Path(path))


def save_student(student: Student, data: TraceData, folder: Path) -> None:
    student.save(folder)
    data.collector.student_tokenizer.save_pretrained(folder)


def keep(run: Path, outcome: dict[str, Any], trainer: L.Trainer, benchmark: Benchmark) -> list[str]:
    """What came out: in metrics.json, with the loggers, and as a table. -> lines on where the loggers have it."""
    from rich import print as show

    from ekd.cli.run_log import log_outcome
    from ekd.files import write_json
    from ekd.report.run import outcome_table

    figures = outcome["figures"]
    write_json(run / "metrics.json", outcome)
    metrics = flat(figures["benchmark"], type(benchmark.dataset).__name__.lower())
    logged = log_outcome(trainer.loggers, outcome, metrics, benchmark.questions(), run, trainer.global_step)
    show(outcome_table(figures))
    return logged


def mend(run: Path) -> None:
    """Of a finished run whose page or logger failed: the page is made now; what a logger lost is said."""
    from ekd.report.pages import page_line

    note = run / "failed.txt"
    if note.exists():
        why = (note.read_text().strip().splitlines() or ["it left no word"])[-1]
        print(f"but what followed failed ({why}): its logger may lack the outcome, its page is made now")
        print(page_line(run))


def learn(trainer: L.Trainer, student: Student, data: TraceData, ckpt: Path | str | None, *, measure: bool) -> float:
    """-> with `measure`, the most memory that training held (GB, 1e9 bytes) beyond what was there before the model."""
    from ekd.distill.memory_plan import resident
    from ekd.models.heap import trim

    floor = resident()[0] if measure else 0
    if starts_ranks(trainer):
        data.prepare_data()  # before they start: a mistake is answered once, and nobody waits for the teacher
        name_job()
    if ckpt is None:
        student.before = dict(trainer.validate(student, data, verbose=False)[0])
    if measure:
        resident(reset=True)
    trim()  # after tracing and validation
    trainer.fit(student, data, ckpt_path=ckpt, weights_only=True)
    return (resident()[1] - floor) / 1e9 if measure else 0.0


def tidy(checkpoint: ModelCheckpoint, *, keep: bool) -> str:
    """What there is to go on from. Without `keep` nothing, once metrics.json says that the run is complete."""
    if keep:
        return checkpoint.last_model_path or "none"
    folder = Path(str(checkpoint.dirpath))
    # not what another callback wrote for keeps
    for pattern in ("step*.ckpt", "last*.ckpt", "interrupted.ckpt", "trained.ckpt"):
        for file in folder.glob(pattern):
            file.unlink()
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()
    return "not kept (keep_checkpoints=false)"


def names(config: dict[str, Any]) -> dict[str, str]:
    """What reports go by; read off the config, so that it holds whatever was overridden."""
    from ekd.method import method_of

    return {"method": method_of(config).name, "budget": "tokens" if config["student"]["supervised_tokens"] else "steps"}


def trained(student: Student) -> dict[str, float]:
    return {
        "selected": int(student.supervised) / max(int(student.offered), 1),
        "supervised_tokens": int(student.supervised),
        "tokens_per_second": student.speed["tokens"] / max(student.speed["seconds"], 1e-9),
    }


def val_kl(run: Path) -> float:
    """What Optuna makes small."""
    from ekd.files import read_json

    return float(read_json(run / "metrics.json")["figures"]["after"]["val/kl"])


def plan_memory(config: DictConfig, data: TraceData, student: Student) -> dict[str, float]:
    """Prints the plan. -> its peak, GB (1e9 bytes)."""
    from rich import print as show

    from ekd.distill.memory_plan import check_plan, largest, plan, plan_table

    check_plan(config.plan, config.trainer.strategy)
    precision, packing, build_as_given = str(config.trainer.precision), data.packing, student.build
    most = largest(student, config.plan_gb, precision, packing=packing)
    now = plan(student, data.max_tokens, precision, packing=packing)
    least = None
    if not build_as_given.gradient_checkpointing:
        student.build = replace(student.build, gradient_checkpointing=True)
        least = largest(student, config.plan_gb, precision, packing=packing)
        student.build = build_as_given
    show(plan_table(now, most, config.plan_gb, least))
    return {"planned": now.peak / 1e9}


def starts_ranks(trainer: L.Trainer) -> bool:
    """Whether Lightning will run this command again for each further rank (torchrun and SLURM have done it)."""
    from lightning.pytorch.strategies import ParallelStrategy

    ranks = trainer.strategy.cluster_environment if isinstance(trainer.strategy, ParallelStrategy) else None
    return trainer.world_size > 1 and ranks is not None and not ranks.creates_processes_externally


def run_benchmark(
    config: DictConfig, benchmark: Benchmark, data: TraceData, student: Student, run: Path
) -> dict[str, dict[str, float]]:
    """The teacher's and the untrained student's answers are kept for the next run; they do not change."""
    from ekd.eval.answers import keep_beside, kept_file
    from ekd.models.load import pick_device

    if benchmark.problems == 0:
        return {}
    tokenizer, family = data.collector.student_tokenizer, data.collector.family
    # it answers in its own words, not in their translation, where its tokenizer is known
    teacher, own = (
        (family.teacher, tokenizer) if family.tokenizer is None else (data.collector.teacher, family.tokenizer)
    )
    device = pick_device("auto")
    loaded: Any = student  # the type that transformers gives to a model's `to` is not callable
    evaluated: dict[str, Any] = {}
    seeing = benchmark.of_teacher(teacher, data.collector.own_prompt)
    if config.baselines.teacher:
        path = kept_file(seeing.identity(teacher.origin(), own))
        evaluated["teacher"] = (seeing.by_teacher(teacher, own), path)
    if config.baselines.before and config.ckpt_from is None:  # else it is not what training began with
        path = kept_file(benchmark.identity(student.origin(), tokenizer))
        evaluated["student before"] = (benchmark.by_model(lambda: loaded.load().to(device), tokenizer), path)
    trained = benchmark.by_model(lambda: loaded.model.to(device), tokenizer)
    evaluated["student after"] = (trained, run / "answers.jsonl")
    answers = {}
    for who, (solve, path) in evaluated.items():
        asked, reader = (seeing, own) if who == "teacher" else (benchmark, tokenizer)
        answers[who] = asked.run(reader, solve, path, who).answers
    keep_beside(run, {who.removeprefix("student "): path for who, (_, path) in evaluated.items() if path.parent != run})
    return {who: benchmark.summary(given) for who, given in answers.items()}


def flat(found: dict[str, dict[str, float]], dataset: str) -> dict[str, float]:
    """Metric names are paths: eval/arithmetic/student_after/accuracy."""
    return {
        f"eval/{dataset}/{who.replace(' ', '_')}/{name}": float(value)
        for who, result in found.items()
        for name, value in result.items()
    }


if __name__ == "__main__":
    door("train", main, val_kl)
