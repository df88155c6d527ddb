"""python -m ekd.evaluate: let a model solve held-out problems, and say how many it solved and how sure that is.

python -m ekd.evaluate compare A B   two results, problem by problem
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ekd.door import build, door, provenance


def main(config: DictConfig) -> int:
    from rich import print as show

    from ekd.exam import Generator
    from ekd.marks import markdown, rows
    from ekd.model import load_tokenizer
    from ekd.report.marks import table

    if config.run is not None:
        adopt(config, Path(config.run))
    exam, generator = build(config.exam), build(config.generator)
    tokenizer = load_tokenizer(config.student.model, trust_remote_code=config.student.trust_remote_code)
    origin = generator.origin()
    folder = results(config, f"{type(exam.dataset).__name__}-{exam.split}", exam.identity(origin, tokenizer))
    solve = generator.solver(exam, tokenizer) if isinstance(generator, Generator) else exam.by_teacher(generator)
    who = config.run or origin.get("model") or config.student.model
    sitting = exam.sit(tokenizer, solve, folder / "answers.jsonl", who)
    figures = exam.summary(sitting.answers)
    made = {"config": OmegaConf.to_container(config, resolve=True), **provenance()}
    report = {"metrics": figures, "who": who, "exam": exam.describe(), "model": origin, **made}
    (folder / "metrics.json").write_text(json.dumps(report, indent=1, default=str))
    title = f"{who} on {report['exam']['problems']} {exam.split} problems of {type(exam.dataset).__name__.lower()}"
    (folder / "table.md").write_text(markdown(title, rows(figures)))
    log(config, report, sitting.answers)
    show(table(title, rows(figures)))
    for failure in sitting.failures:
        print(f"failed: problem {failure.problem_id}: {failure.reason}")
    print(f"answers     {folder / 'answers.jsonl'}\nmetrics     {folder / 'metrics.json'}")
    return 1 if sitting.failures else 0


def adopt(config: DictConfig, run: Path) -> None:
    """Takes the student of a run, and its dataset and prompt where the command line names no other."""
    if not (run / "run.json").is_file():
        raise ValueError(
            f"run={run} is not a training run: there is no {run / 'run.json'}; give the folder that it printed"
        )
    trained = json.loads((run / "run.json").read_text())["config"]
    if config.ckpt is None and not (run / "student").is_dir():
        raise ValueError(
            f"run={run} has no finished student; give ckpt={run}/checkpoints/..., or finish it with "
            f"python -m ekd.train ... ckpt={run}/checkpoints/last.ckpt"
        )
    words = HydraConfig.get().overrides.task
    for group in ("dataset", "prompt"):
        if not any(word.startswith(f"{group}=") for word in words):
            given = OmegaConf.from_dotlist([word for word in words if word.startswith(f"{group}.")])
            config[group] = OmegaConf.merge(trained[group], given.get(group, {}))
    config.student.model = str(run / "student") if config.ckpt is None else trained["student"]["model"]
    config.student.layers = "all" if config.ckpt is None else trained["student"]["layers"]


def results(config: DictConfig, exam: str, identity: str) -> Path:
    """The same question to the same model has the same folder, so that a second call goes on."""
    if config.out is not None:
        return _own(Path(config.out).expanduser(), identity)
    name = re.sub(r"[^a-z0-9.]+", "-", exam.lower())
    if config.run is not None:
        return Path(config.run) / "eval" / f"{name}-{identity[:8]}"
    model = re.sub(r"[^a-z0-9.]+", "-", str(config.student.model).lower()).strip("-")
    return Path("outputs/evaluate").absolute() / f"{model}-{name}-{identity[:8]}"


def _own(folder: Path, identity: str) -> Path:
    """A folder that the user names may hold another exam's answers."""
    mark = folder / "identity"
    if mark.exists() and mark.read_text() != identity:
        raise ValueError(
            f"out={folder} holds the answers of another exam or model; name an empty folder, or leave out away"
        )
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(identity)
    return folder


def log(config: DictConfig, report: dict[str, Any], answers: list[Any]) -> None:
    """To the loggers that are on; to W&B also every answer."""
    if "logger" not in config:
        return
    name = report["config"]["dataset"]["_target_"].rpartition(".")[2].lower()
    for logger in build(config.logger).values():
        logger.log_hyperparams({k: v for k, v in report.items() if k != "metrics"})
        logger.log_metrics({f"eval/{name}/{key}": value for key, value in report["metrics"].items()}, step=0)
        if type(logger).__name__ == "WandbLogger":
            columns = ["problem_id", "sample", "status", "extracted", "reference", "finish", "tokens", "prompt", "text"]
            logger.log_table("answers", columns, [[answer._asdict()[c] for c in columns] for answer in answers])
        logger.finalize("success")


if __name__ == "__main__":
    if sys.argv[1:2] == ["compare"]:
        from ekd.compare import main as compare

        sys.exit(compare(sys.argv[2:]))
    door("evaluate", main)
