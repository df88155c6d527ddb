"""The random control of every method of a sweep: what is missing is trained when the sweep's own cells are done.

Its share cannot be known before: ties, unmatched rows and thresholds decide how many tokens a method really takes.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ekd.method import CONF, NEAR, Method
from ekd.report.cell import Cell
from ekd.report.section import Section, sections
from ekd.report.sweep import read_sweep

OWN = ("selector", "signal", "method", "seed", "controls")  # groups and keys that a control says for itself
ELSEWHERE = ("hydra.sweep.", "hydra.sweeper", "hydra/sweeper", "hydra.mode", "hydra.run.")


class Control(NamedTuple):
    cell: Cell  # what it is like in everything but the tokens
    percent: float  # of the tokens
    seeds: list[int]


def missing_controls(sweep: Path) -> list[Control]:
    """One for each share that a method was seen to take and no random run of the sweep takes."""
    return [control for section in sections(read_sweep(sweep)) for control in _of_section(section)]


def _of_section(section: Section) -> list[Control]:
    found: list[Control] = []
    for method in section.methods:
        if not method.selects or section.control(method) is not None:
            continue
        cells, percent = section.of(method), round(100 * section.shares[method], 2)
        if method.selector.name == "topk":  # random takes as many as topk, row by row
            percent = method.selector.get("k_percent")
        if percent and not any(_serves(control, method, percent) for control in found):
            found.append(Control(cells[0], percent, sorted({cell.seed for cell in section.cells})))
    return found


def _serves(control: Control, method: Method, percent: float) -> bool:
    return control.cell.method.plain == method.plain and abs(control.percent - percent) <= NEAR * percent / 2


def train_controls(sweep: Path, launcher: Sequence[str]) -> int:
    """launcher: the sweep's own words on hydra. -> the worst exit code."""
    worst = 0
    for control in missing_controls(sweep):
        print(f"control     random {control.percent:g}% for {control.cell.method} (controls=false leaves them out)")
        worst = max(worst, subprocess.run(control_command(sweep, control, launcher), check=False).returncode)
    return worst


def control_command(sweep: Path, control: Control, launcher: Sequence[str]) -> list[str]:
    words = [word for word in _told(control.cell) if _root(word) not in OWN]
    kept = [word for word in launcher if not word.startswith(ELSEWHERE)]
    seeds = ",".join(map(str, control.seeds))
    like = control.cell.method.plain.name
    name = f"random_{control.percent:g}" + ("" if like == "vanilla" else f"-{like.removeprefix('vanilla-')}")
    return [
        *(sys.executable, "-m", "ekd.train", "-m", *words, *kept, *_unset(control.cell, words)),
        *("selector=random", f"selector.k_percent={control.percent}", f"seed={seeds}", "controls=false"),
        *(f"hydra.sweep.dir={sweep / 'controls'}", f"hydra.sweep.subdir={name}/seed_${{seed}}"),
        "hydra.sweeper.params=null",
    ]


def _told(cell: Cell) -> list[str]:
    """The cell's own words on the command line, one value each."""
    file = cell.folder / ".hydra" / "overrides.yaml"
    if not file.is_file():
        raise ValueError(f"{file} is missing, so the command of a control is not known: set controls=false")
    return [str(word) for word in yaml.safe_load(file.read_text(encoding="utf-8")) or []]


def _root(word: str) -> str:
    return word.lstrip("+~").split("=")[0].split(".")[0].split("@")[0]


def _unset(cell: Cell, words: Sequence[str]) -> list[str]:
    """A preset's values of another selector or signal, which the control's has no use for."""
    presets = [word.partition("=")[2].strip("[]").split(",") for word in words if _root(word) == "experiment"]
    told: dict[str, set[str]] = {"selector": set(), "signal": set()}
    for name in (name for group in presets for name in group):
        node: dict[str, Any] = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")) or {}
        for group in told:
            told[group] |= set(node.get(group) or {})
    known = set(yaml.safe_load((CONF / "selector" / "random.yaml").read_text(encoding="utf-8")))
    return ["signal=teacher_entropy", *(f"~selector.{k}" for k in sorted(told["selector"] - known)),
            *(f"~signal.{k}" for k in sorted(told["signal"]))]  # fmt: skip
