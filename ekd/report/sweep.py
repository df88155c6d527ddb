"""A sweep's folder as a small table of cells: what finished, what did not, and why.

PATH/[BUDGET/]METHOD/seed_N/ holds one training run each; a cell is finished when its metrics.json is there and whole.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ekd.distill.provenance import start_of
from ekd.files import read_json
from ekd.method import method_of
from ekd.outside import check_plain
from ekd.renamed import current_run
from ekd.report.cell import Cell
from ekd.report.conditions import settings_of

BUDGETS = ("steps", "tokens")
MOST = 10_000  # seeds of a sweep, above which its file is not believed
# Folders that hold no cells.
ASIDE = re.compile(r"earlier-\d+|report|csv(\.\d+)?|student|checkpoints|benchmark|exams|\..*")


class Lost(NamedTuple):
    """A cell that gives no figures."""

    folder: Path
    budget: str
    method: str
    seed: int | None
    state: str  # "failed", "unreadable" or "unfinished"
    why: str


class SweepCells(NamedTuple):
    path: Path
    cells: list[Cell]
    lost: list[Lost]
    planned: list[tuple[str, str, int]]  # budget, method and seed of what the last start asked for; empty: unknown


class Curve(NamedTuple):
    """Validations of one run, in order; tokens are read off between the steps that were logged."""

    steps: list[float]
    tokens: list[float]
    kl: list[float]


def read_sweep(path: Path) -> SweepCells:
    """Raises ValueError, in a sentence, where there is nothing to report on or two cells claim to be the same one."""
    if not path.is_dir():
        raise ValueError(f"sweep={path} is no folder; give the one that holds METHOD/seed_N/ (hydra.sweep.dir)")
    found = read_cells(path)
    cells = [cell for cell in found if isinstance(cell, Cell)]
    lost = [cell for cell in found if isinstance(cell, Lost)]
    if not cells:
        what = f"{len(lost)} cells, none of them finished; the first: {lost[0].why}" if lost else "no run at all"
        raise ValueError(
            f"sweep={path} holds {what}; run `python -m ekd.train -m experiment=bucket_sweep hydra.sweep.dir={path}`"
        )
    return SweepCells(path, _single(cells), lost, planned(path))


def read_cells(path: Path) -> list[Cell | Lost]:
    """Every run below a folder, whatever became of it."""
    return [read_cell(folder, path) for folder in sorted(_folders(path))]


def read_cell(folder: Path, root: Path) -> Cell | Lost:
    method, seed, budget = _place(folder, root)
    file = folder / "metrics.json"
    if not file.exists():
        note = folder / "failed.txt"
        if note.exists():
            return Lost(folder, budget, method, seed, "failed", note.read_text(errors="replace").strip())
        return Lost(folder, budget, method, seed, "unfinished", "not finished: the same command goes on with it")
    try:
        made = current_run(read_json(file))
        figures = made.pop("figures")
        if made.get("budget") not in (None, "", *BUDGETS):
            raise ValueError(f"there is no budget {made['budget']!r}")
        cell = Cell(
            folder=folder,
            budget=str(made.get("budget") or budget),
            method=method_of(made["config"]),
            seed=int(made["config"]["seed"]),
            figures=figures,
            made=made,
        )
        start_of(made)  # raises where pages could not say it
        kl = float(figures["after"]["val/kl"])
        float(figures["train"]["supervised_tokens"])
        for when in ("before", "after"):  # what is no number was not measured
            figures[when] = {k: v for k, v in figures.get(when, {}).items() if math.isfinite(v)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"metrics.json is not whole ({type(error).__name__}: {error}); delete it and start the sweep again"
        return Lost(folder, budget, method, seed, "unreadable", why)
    if not math.isfinite(kl):
        why = f"val/kl is {kl}: training diverged; lower student.optimizer.lr"
        return Lost(folder, budget, method, seed, "failed", why)
    return cell


def planned(path: Path) -> list[tuple[str, str, int]]:
    """What multirun.yaml, of the last start, asks for, as far as plain lists say it; else empty."""
    file = path / "multirun.yaml"
    check_plain(file)
    if not file.exists():
        return []
    asked = _asked(file)
    methods = [name.strip() for name in asked.get("method", "").split(",") if name.strip()]
    seeds = _integers(asked.get("seed", ""))
    budgets = asked.get("budget", "steps").split(",")
    return [(budget, method, seed) for budget in budgets for method in methods for seed in seeds]


def _asked(file: Path) -> dict[str, str]:
    """Raises ValueError, which names the file, for what Hydra has not written."""
    try:
        hydra = _below(yaml.safe_load(file.read_text("utf-8")), "hydra")
        params, words = _below(hydra, "sweeper", "params") or {}, _below(hydra, "overrides", "task") or []
        if not isinstance(params, dict) or not isinstance(words, list):
            raise ValueError("sweeper.params is no table, or overrides.task no list")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{file} is damaged ({why}): delete it, and the report does not say which cells are missing"
        ) from None
    asked = {str(key): str(value) for key, value in params.items() if not isinstance(value, (dict, list))}
    return asked | dict(word.split("=", 1) for word in words if isinstance(word, str) and "=" in word)


def _below(tree: Any, *names: str) -> Any:
    for name in names:
        if tree is None:
            return None
        if not isinstance(tree, dict):
            raise ValueError(f"{name} is looked for in {tree!r:.60}")
        tree = tree.get(name)
    return tree


def curve(cell: Cell) -> Curve:
    """From every part of the run's metrics.csv; empty where it logged none."""
    kl: dict[float, float] = {}
    tokens = {-1.0: 0.0}
    # A resumed cell has older parts, csv.1 and so on; what was done again is said by the newest.
    for file in sorted(cell.folder.glob("csv*/metrics.csv"), key=lambda f: f.parent.name, reverse=True):
        for row in _rows(file):
            if row.get("val/kl"):
                kl[float(row["step"])] = float(row["val/kl"])
            if row.get("train/supervised_tokens"):
                tokens[float(row["step"])] = float(row["train/supervised_tokens"])
    steps = sorted(kl)
    if not steps:
        return Curve([], [], [])
    tokens.setdefault(max(steps[-1], *tokens), float(cell.figures["train"]["supervised_tokens"]))
    return Curve(steps, [_between(step, tokens) if step > 0 else 0.0 for step in steps], [kl[step] for step in steps])


def _between(step: float, known: dict[float, float]) -> float:
    """Linear between the steps that are known."""
    import numpy as np

    places = sorted(known)
    return float(np.interp(step, places, [known[place] for place in places]))


def _rows(file: Path) -> Iterator[dict[str, str]]:
    """Whole rows only: the last line of a killed run may be half a line."""
    with file.open(newline="") as lines:
        for row in csv.DictReader(lines):
            if None not in row and None not in row.values():
                yield row


def _folders(path: Path) -> Iterator[Path]:
    for folder, inside, files in os.walk(path):
        if {"metrics.json", "failed.txt", "run.json"} & set(files):
            inside.clear()
            yield Path(folder)
        inside[:] = [name for name in inside if not ASIDE.fullmatch(name)]


def _place(folder: Path, root: Path) -> tuple[str, int | None, str]:
    """Method, seed and budget as the folder's name says them: all that is known of a cell without a metrics.json."""
    parts = folder.relative_to(root).parts
    seed = re.fullmatch(r"seed_(\d+)", parts[-1]) if parts else None
    method = parts[-2] if seed and len(parts) > 1 else "/".join(parts) or root.name
    budget = next((part for part in (*parts, root.name) if part in BUDGETS), "")
    return method, int(seed[1]) if seed else None, budget


def _integers(words: str) -> list[int]:
    span = re.fullmatch(r"range\((\d{1,9})(?:,\s*(\d{1,9}))?\)", words.strip())
    if span:
        found = range(int(span[1])) if span[2] is None else range(int(span[1]), int(span[2]))
        return list(found) if len(found) <= MOST else []
    parts = [part.strip() for part in words.split(",")]
    return [int(part) for part in parts] if all(re.fullmatch(r"\d{1,18}", part) for part in parts) else []


def _single(cells: list[Cell]) -> list[Cell]:
    """Without the repetitions of a run that a sweep asked for twice (random tokens under each of three signals)."""
    found: dict[tuple[Any, ...], Cell] = {}
    for cell in cells:
        key = (cell.budget, cell.method, cell.seed, tuple(settings_of(cell).items()))
        other = found.setdefault(key, cell)
        if other.figures["after"] != cell.figures["after"]:
            raise ValueError(
                f"{other.folder} and {cell.folder} are both {cell.method} with seed {cell.seed}, under the same "
                "settings, and found different things: give the folder of one sweep (hydra.sweep.dir=FOLDER)"
            )
    return list(found.values())
