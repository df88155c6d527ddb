"""The second study, docs/study2.md: which learning rate, what is kept of its cells, its tables and figures.

    python scripts/study2.py rates multirun/small_world_choose    # -> conf/experiment/parts/small_world_rates.yaml
    python scripts/study2.py keep multirun/small_world            # -> docs/study2_cells.jsonl.gz
    python scripts/study2.py page                                 # -> docs/study2_tables.md and docs/study2_*.svg
    python scripts/study2.py again                                # two cells anew, beside what was published
    python scripts/study2.py seconds                              # CPU seconds a step of each method

`page` reads nothing but the kept cells; `--check` exits with 1 if what is there is something else. What each table
means is said in docs/study2_plan.md.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

from lightning.pytorch import Callback, Trainer
from omegaconf import OmegaConf
from study2_tables import KEPT, OUTCOMES, PARTS, ROOT, kept_lines, page, read_kept

from ekd.cli.door import build
from ekd.files import read_json
from ekd.session.notebook import compose

RATES = ROOT / "conf" / "experiment" / "parts" / "small_world_rates.yaml"
SKIP, STEPS, ROUNDS = 5, 60, 5  # of `seconds`
AGAIN = Path("multirun/study_again")
# What is compared, how far another machine may be, and where it is.
COMPARED: tuple[tuple[str, float, Callable[[dict[str, Any]], float]], ...] = (
    ("held-out KL, nats", 0.05, lambda figures: figures["after"]["val/kl"]),
    ("accuracy", 0.10, lambda figures: figures["benchmark"]["student after"]["accuracy"]),
)
METHOD = ("signal", "selector", "loss", "gate", "source", "policy", "seed", "student", "data", "teacher")
FIGURES = ("after", "before", "train", "minutes", "peak_memory_gb")


def cells_below(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(folder, metrics.json) of every finished run, in order; not of one that was made again."""
    for file in sorted(folder.rglob("metrics.json")):
        if "earlier-" not in str(file.relative_to(folder)):
            yield file.parent, read_json(file)


def choose(folder: Path) -> dict[str, dict[str, float]]:
    """{part: {method: the rate of the highest mean accuracy, of equal ones that of the lowest KL}}."""
    seen: dict[tuple[str, str], dict[float, list[tuple[float, float]]]] = {}
    for place, made in cells_below(folder):
        part, method = place.relative_to(folder).parts[:2]
        figures, rate = made["figures"], made["config"]["student"]["optimizer"]["lr"]
        marks = (figures["benchmark"]["student after"]["accuracy"], -figures["after"]["val/kl"])
        seen.setdefault((part, method), {}).setdefault(rate, []).append(marks)
    chosen: dict[str, dict[str, float]] = {}
    for (part, method), rates in seen.items():
        best = max(rates, key=lambda rate: tuple(mean(column) for column in zip(*rates[rate], strict=True)))
        chosen.setdefault(part, {})[method] = best
        said = "  ".join(f"{rate:g}: {100 * mean(a for a, _ in marks):.1f}%" for rate, marks in sorted(rates.items()))
        print(f"{part:<16} {method:<44} {best:g}   ({said})")
    return chosen


def write_rates(folder: Path) -> None:
    head = (
        "# @package _global_\n"
        "# Each method's learning rate in docs/study2.md. Chosen on the val split by seeds 8 and 9, part by part:\n"
        "# python scripts/study2.py rates multirun/small_world_choose\n"
        "# 0.003 all through a part: that part is not chosen yet.\n"
    )
    known = OmegaConf.merge(OmegaConf.load(RATES) if RATES.exists() else {}, {"rates": choose(folder)})
    RATES.write_text(head + OmegaConf.to_yaml(known))


def keep(folder: Path) -> None:
    """What the page needs of each cell: its method, its figures, and which problems it solved at which length.

    A part that is in the folder takes the place of what was kept of it; the other parts stay.
    """
    lines = []
    for place, made in cells_below(folder):
        config, figures = made["config"], made["figures"]
        answers = [json.loads(line) for line in (place / "answers.jsonl").read_text("utf-8").splitlines()]
        answers.sort(key=lambda answer: answer["problem_id"])
        lines.append({
            "part": place.relative_to(folder).parts[0],
            "rate": config["student"]["optimizer"]["lr"],
            "steps": config["trainer"]["max_steps"],
            "budget": made["budget"],
            "config": {key: _kept(key, config.get(key)) for key in METHOD},
            "figures": {key: figures[key] for key in FIGURES} | {"benchmark": figures["benchmark"]},
            "right": "".join(str(int(answer["status"] == "correct")) for answer in answers),
            "tokens": [answer["tokens"] for answer in answers],
            **_rounds(place),
            "commit": made["commit"],
            "launched": made["launched"],
        })  # fmt: skip
    lines = merged(kept_lines() if KEPT.exists() else [], lines)
    text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
    KEPT.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{len(lines)} cells, {KEPT.stat().st_size / 1e6:.1f} MB in {KEPT}")


def merged(kept: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines in the order of the parts. Raises SystemExit for a part that has fewer cells now: it is not whole."""
    before, now = (Counter(line["part"] for line in lines) for lines in (kept, found))
    for part, count in now.items():
        if part not in PARTS:
            raise SystemExit(f"{part} is no part of the study: {', '.join(PARTS)}")
        if count < before[part]:
            raise SystemExit(f"{part} has {count} cells and {before[part]} are kept: run the others, too")
    lines = [line for line in kept if line["part"] not in now] + found
    return sorted(lines, key=lambda line: list(PARTS).index(line["part"]))


def _rounds(place: Path) -> dict[str, Any]:
    """Of the last third of a run's rounds the means; nothing where the texts were the teacher's."""
    if not (place / "rounds.jsonl").exists():
        return {}
    rounds = [json.loads(line) for line in (place / "rounds.jsonl").read_text("utf-8").splitlines()]
    last = rounds[-max(len(rounds) // 3, 1) :]
    return {"rounds": {name: mean(one[name] for one in last) for name in OUTCOMES}}


def _kept(key: str, node: Any) -> Any:
    """Of teacher, student and data no places and no copies of other groups; the rest as it is."""
    aside = ("collector", "model", "start", "source", "signal", "selector", "loss", "gate", "optimizer", "lora")
    if key in ("student", "data", "teacher"):
        return {name: value for name, value in node.items() if name not in aside}
    return node


def again() -> None:
    """Two cells anew, beside what was published. Another machine may round sums otherwise, from the first step on."""
    part, methods, seed = "given_forward", ("vanilla", "topk_20"), 0
    subprocess.run([sys.executable, ROOT / "scripts/study_world.py", "world", "teacher", f"student_{seed}"], check=True)
    shutil.rmtree(AGAIN, ignore_errors=True)  # of an earlier time: finished cells would not be run again
    words = [f"experiment=small_world_{part}", f"method={','.join(methods)}", f"seed={seed}"]
    subprocess.run([sys.executable, "-m", "ekd.train", "-m", *words, f"hydra.sweep.dir={AGAIN}"], check=True)
    published = {cell.method.name: cell for cell, _ in read_kept()[part] if cell.seed == seed}
    far = []
    for method in methods:
        found = read_json(AGAIN / method / f"seed_{seed}" / "metrics.json")["figures"]
        for name, reach, read in COMPARED:
            one, other = read(published[method].figures), read(found)
            print(f"{method:<10} {name:<20} published {one:.6f}  here {other:.6f}  difference {other - one:+.6f}")
            far += [f"{name} of {method}"] if abs(other - one) > reach else []
    if far:
        raise SystemExit(f"farther from what was published than another machine explains: {', '.join(far)}")


def seconds() -> None:
    """Of a step, beside every token's: all methods in turns in one process, ROUNDS times; medians of each turn's ratio.

    CPU seconds from the end of a step to the end of another STEPS later, its batches made and its optimizer's step
    taken; the same model, texts and order.
    """
    part, ratios = "given_forward", dict[str, list[float]]()
    methods = list(OmegaConf.load(RATES).rates[part])
    for turn in range(ROUNDS + 1):
        took = {method: _step_seconds(part, method) for method in methods}
        for method in methods if turn else []:  # the first turn warms the machine
            ratios.setdefault(method, []).append(took[method] / took["vanilla"])
    for method, found in ratios.items():
        print(f"{method:<44} {median(found):.2f} of every token's ({min(found):.2f} to {max(found):.2f})")
    print(f"every token: {1000 * took['vanilla']:.1f} ms a step in the last turn")


class StepClock(Callback):
    """CPU seconds of the steps after the first `skip`, each with what is between it and the one before."""

    def __init__(self, skip: int) -> None:
        self.skip, self.began, self.total = skip, 0.0, 0.0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.skip:
            self.began = process_time()
        self.total = process_time() - self.began


def _step_seconds(part: str, method: str) -> float:
    words = [f"experiment=small_world_{part}", f"method={method}", "seed=0"]
    with TemporaryDirectory() as folder:
        config = compose(*words, f"trainer.max_steps={SKIP + STEPS}", folder=folder)
        clock = StepClock(SKIP)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        build(config.trainer, **quiet, limit_val_batches=0, num_sanity_val_steps=0, callbacks=[clock]).fit(
            build(config.student), build(config.data)
        )
    return clock.total / STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rates", "keep", "page", "again", "seconds"])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    if asked.what == "page":
        for file, content in page().items():
            if not asked.check:
                file.write_bytes(content)
            elif not file.exists() or file.read_bytes() != content:
                raise SystemExit(f"{file} is not what `python scripts/study2.py page` makes: run it")
    elif asked.what in ("again", "seconds"):
        {"again": again, "seconds": seconds}[asked.what]()
    elif asked.folder is None:
        parser.error(f"{asked.what} needs the folder of a sweep")
    else:
        {"rates": write_rates, "keep": keep}[asked.what](asked.folder)


if __name__ == "__main__":
    main()
