"""python -m ekd.evaluate: let a model solve held-out problems, and say how many it solved and how sure that is.

python -m ekd.evaluate compare A B           two results, problem by problem; page=true: side by side in a browser
python -m ekd.evaluate perplexity store=...  perplexity, KL to the teacher and calibration
python -m ekd.evaluate harness tasks=[...]   the tasks of lm-evaluation-harness
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ekd.cli.door import build, door, provenance
from ekd.defaults import answer_precision
from ekd.outside import visible

if TYPE_CHECKING:
    from ekd.types import Trace


def main(config: DictConfig) -> int:
    from ekd.eval.benchmark import Generator
    from ekd.eval.metrics import metric_rows
    from ekd.models.load import load_tokenizer

    trained = adopt(config, "dataset", "prompt")
    generator = build(config.generator)
    given = any(word.startswith("benchmark.precision=") for word in HydraConfig.get().overrides.task)
    if trained and isinstance(generator, Generator) and not given:
        config.benchmark.precision = answer_precision(trained.get("trainer", {}).get("precision"))
    benchmark = build(config.benchmark)
    tokenizer = load_tokenizer(config.student.model, trust_remote_code=config.student.trust_remote_code)
    origin, dataset = generator.origin(), type(benchmark.dataset).__name__.lower()
    folder = results_folder(config, f"{dataset}-{benchmark.split}", benchmark.identity(origin, tokenizer))
    asked = generator.solver if isinstance(generator, Generator) else None
    solve = asked(benchmark, tokenizer) if asked else benchmark.by_teacher(generator, tokenizer)
    who = str(config.run or origin.get("model") or config.student.model)
    found = benchmark.run(tokenizer, solve, folder / "answers.jsonl", who)
    figures = benchmark.summary(found.answers)
    report = {"who": who, "benchmark": benchmark.describe(), "model": origin}
    title = f"{who} on {report['benchmark']['problems']} {benchmark.split} problems of {dataset}"
    publish(config, folder, title, metric_rows(figures), figures, report)
    log(config, f"eval/{dataset}", figures, report, found.answers)
    for failure in found.failures:
        print(visible(f"failed: problem {failure.problem_id}: {failure.reason}"))
    print(f"answers     {folder / 'answers.jsonl'}")
    return 1 if found.failures else 0


def perplexity(config: DictConfig) -> int:
    from ekd.eval.perplexity import batched, measure, perplexity_rows, reading_json, reliability
    from ekd.models.load import load_tokenizer
    from ekd.models.token_kinds import KINDS, kind_table, token_texts
    from ekd.store.tokenizer import check_tokenizer

    if (config.run is None) + (config.store is None) + (config.text is None) != 2:
        raise ValueError("give one of run=RUN, store=STORE and text=FILE: what is to be measured on")
    trained = adopt(config)
    loader = build(config.loader)
    tokenizer = load_tokenizer(config.student.model, trust_remote_code=config.student.trust_remote_code)
    traces, source = sequences(config, trained, tokenizer)
    if "origin" in source:
        check_tokenizer(source["origin"], tokenizer)
    origin = loader.origin()
    draws = bool(source.get("origin", {}).get("draws"))
    batches = batched(traces, origin["vocab"], config.max_tokens, draws=draws)
    digits = kind_table(token_texts(tokenizer, origin["vocab"])) == KINDS.index("digits")
    reading = measure(loader.load(), batches, digits)
    folder = results_folder(config, "perplexity", digest_of_parts(origin, source))
    report = {"who": config.run or config.student.model, "source": source, "model": origin}
    publish(
        config, folder, f"{report['who']} on {source['what']}", perplexity_rows(reading), reading_json(reading), report
    )
    (folder / "reliability.svg").write_text(reliability(reading))
    print(f"calibration {folder / 'reliability.svg'}")
    return 0


def sequences(config: DictConfig, trained: dict[str, Any], tokenizer: Any) -> tuple[list[Trace], dict[str, Any]]:
    """What to measure on, and what it is."""
    from ekd.eval.perplexity import from_text
    from ekd.store.store import Store

    if config.text is not None:
        files = [config.text] if isinstance(config.text, str) else list(config.text)
        texts = [Path(file).expanduser().read_text() for file in files]
        pieces = [piece for text in texts for piece in from_text(tokenizer, text, config.window)]
        return pieces, {"what": ", ".join(files), "sha256": digest_of_parts(*texts), "window": config.window}
    if config.store is not None:
        store = Store(config.store)
        return [store[key] for key in sorted(store.keys())], {"what": str(store.path), "origin": store.origin}
    from ekd.distill.fence import checked_part

    decided = {"api_key_env": config.api_key_env, "trust_remote_code": config.student.trust_remote_code}
    made = checked_part(trained, "data.collector", decided=decided)
    if made.get("store") is not None and not (Path(made["store"]).expanduser() / "manifest.json").is_file():
        raise ValueError(f"the traces of run={config.run} are not in {made['store']}: give store=STORE")
    collector = build(OmegaConf.create(made))
    problems = checked_part(trained, "data.val_problems", decided={}) if config.problems is None else config.problems
    collected = collector.collect(config.split, problems)
    store = collector.open()
    what = f"{len(collected.keys)} {config.split} problems of {type(collector.dataset).__name__.lower()}"
    return [store[key] for key in collected.keys], {"what": what, "origin": store.origin, "keys": collected.keys}


def harness(config: DictConfig) -> int:
    from ekd.eval.lm_eval import lm_eval_rows, run_tasks
    from ekd.models.load import load_tokenizer

    adopt(config)
    loader = build(config.loader)
    tokenizer = load_tokenizer(config.student.model, trust_remote_code=config.student.trust_remote_code)
    options = {name: config[name] for name in ("shots", "chat", "limit", "batch_size", "seed", "include")}
    figures, report = run_tasks(loader.load, tokenizer, list(config.tasks), **options)
    origin = loader.origin()
    folder = results_folder(config, "harness", digest_of_parts(origin, list(config.tasks), options))
    who = str(config.run or config.student.model)
    publish(
        config,
        folder,
        f"{who}, lm-evaluation-harness",
        lm_eval_rows(report),
        figures,
        {"who": who, **report, "model": origin},
    )
    return 0


def adopt(config: DictConfig, *groups: str) -> dict[str, Any]:
    """Takes the student of `run`, and its groups where the command line names no other. -> the run's config."""
    if config.run is None:
        if config.ckpt is not None:
            raise ValueError(f"ckpt={config.ckpt} needs run=RUN, the folder of the run that made it")
        return {}
    from ekd.distill.fence import checked_part, config_of

    run = Path(config.run)
    trained = config_of(run)
    if config.ckpt is None and not (run / "student").is_dir():
        raise ValueError(
            f"run={run} has no finished student; give ckpt={run}/checkpoints/..., or finish it with "
            f"python -m ekd.train ... ckpt={run}/checkpoints/last.ckpt"
        )
    words = HydraConfig.get().overrides.task
    for group in groups:
        if not any(word.startswith(f"{group}=") for word in words):
            given = OmegaConf.from_dotlist([word for word in words if word.startswith(f"{group}.")])
            mine = checked_part(trained, group, decided={}, own=OmegaConf.select(given, f"{group}._target_"))
            config[group] = OmegaConf.merge(mine, given.get(group, {}))
    model, layers = (checked_part(trained, f"student.{name}", decided={}) for name in ("model", "layers"))
    config.student.model, config.student.layers = (
        (str(run / "student"), "all") if config.ckpt is None else (model, layers)
    )
    return trained


def results_folder(config: DictConfig, what: str, identity: str) -> Path:
    """The same question to the same model has the same folder, so that a second call goes on."""
    if config.out is not None:
        return own(Path(config.out).expanduser(), identity)
    name = f"{slug(what)}-{identity[:8]}"
    if config.run is not None:
        return Path(config.run) / "eval" / name
    return Path("outputs/evaluate").absolute() / f"{slug(str(config.student.model))}-{name}"


def own(folder: Path, identity: str) -> Path:
    """A folder that the user names may hold another benchmark's answers."""
    mark = folder / "identity"
    if mark.exists() and mark.read_text() != identity:
        raise ValueError(
            f"out={folder} holds the results of another benchmark or model; name an empty folder, or drop out="
        )
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(identity)
    return folder


def publish(
    config: DictConfig, folder: Path, title: str, view: Sequence[tuple[str, str]], figures: Any, report: dict[str, Any]
) -> None:
    """metrics.json with everything that made the figures, table.md, and the same table on the screen."""
    from rich import print as show

    from ekd.eval.metrics import markdown_table, metrics_table
    from ekd.files import write_json

    made = {"config": OmegaConf.to_container(config, resolve=True), **provenance()}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", {"metrics": figures, **report, **made})
    (folder / "table.md").write_text(markdown_table(title, view))
    show(metrics_table(title, view))
    print(f"metrics     {folder / 'metrics.json'}")


def log(
    config: DictConfig, prefix: str, figures: dict[str, float], report: dict[str, Any], answers: Sequence[Any]
) -> None:
    """To the loggers that are on; to W&B also every answer."""
    if "logger" not in config:
        return
    from ekd.cli.run_log import whereabouts

    columns = ["problem_id", "sample", "status", "extracted", "reference", "finish", "tokens", "prompt", "text"]
    for logger in build(config.logger).values():
        logger.log_hyperparams({**report, **provenance()})
        logger.log_metrics({f"{prefix}/{name}": value for name, value in figures.items()}, step=0)
        if type(logger).__name__ == "WandbLogger":
            logger.log_table("answers", columns, [[answer._asdict()[c] for c in columns] for answer in answers])
            print("".join(f"{line}\n" for line in whereabouts(logger)), end="")
            logger.experiment.finish()
        logger.finalize("success")


def digest_of_parts(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


DOORS = {"perplexity": perplexity, "harness": harness}

if __name__ == "__main__":
    if sys.argv[1:2] == ["compare"]:
        from ekd.eval.compare import main as compare
        from ekd.report.compare_view import compare_page

        sys.exit(compare(sys.argv[2:], compare_page))
    if sys.argv[1:2] and sys.argv[1] in DOORS:
        name = sys.argv.pop(1)
        door(name, DOORS[name])
    door("evaluate", main)
