"""A run by its folder: new, begun by the same command, or finished; and what a sweep of them has come to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from ekd.files import Damaged, acquire, check_seal, read_json
from ekd.models.checkpoint import is_whole

APART = (
    "ckpt",
    "keep_checkpoints",
    "viewer",
    "plan",
    "plan_gb",
    "logger",
)  # of a config: what does not change the result


class Standing(NamedTuple):
    """What a folder holds. begun: this very run, which goes on from `ckpt` or anew. other: another run.

    damage: what of this run is not as it was written; it is made again.
    """

    finished: bool = False
    begun: bool = False
    other: bool = False
    ckpt: Path | None = None
    damage: str = ""


def standing(run: Path, made: dict[str, Any]) -> Standing:
    """Touches nothing: every rank may ask."""
    damage = ""
    try:
        begun = read_made(run / "run.json")
        if begun is None:
            return Standing()
        if identity(begun, run) != identity(made, run):
            return Standing(other=True)
    except Damaged as error:
        return Standing(other=True, damage=str(error))
    try:
        if read_made(run / "metrics.json") is not None:
            check_seal(run / "student")
            return Standing(finished=True)
    except Damaged as error:
        damage = str(error)
    files = sorted((run / "checkpoints").glob("*.ckpt"), key=lambda file: -file.stat().st_mtime)
    return Standing(begun=True, ckpt=next(filter(is_whole, files), None), damage=damage)


def hold(run: Path, *, wait: bool) -> FileLock:
    """The run's folder for this process alone, until it ends. wait: for another that has it; else it is refused."""
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / ".lock")
    if wait:
        return acquire(lock, f"runs in {run}")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"another process runs in {run}: wait for its end, or give this run a folder of its own (hydra.run.dir=...)"
        ) from None
    return lock


def make_room(run: Path, now: Standing, ckpt: str | None = None) -> None:
    """Before a run starts in a folder that held something: nothing is lost. On one rank. ckpt: what it goes on from."""
    if now.other and ckpt is not None and Path(ckpt).resolve().is_relative_to(run.resolve()):
        raise ValueError(
            f"ckpt={ckpt} lies in {run}, which holds a run of another config or code, to be kept aside: give the "
            "longer run a folder of its own (leave hydra.run.dir out)"
        )
    if now.damage:
        print(f"mending     {now.damage}")
    if now.other:
        print(f"{run} held another run; its files are in {set_aside(run).name}")
    if now.begun:
        for torn in (run / "checkpoints").glob(".*.tmp"):  # of a killed writer
            torn.unlink()
        keep_curve(run)
        print(f"going on    {now.ckpt or 'from the start: there is no checkpoint'}")


def identity(made: dict[str, Any], run: Path) -> dict[str, Any]:
    """What decides a result: the resolved config, wherever the run's folder is, and the code."""
    config = {key: value for key, value in made["config"].items() if key not in APART}
    own = str(made.get("folder", run))  # where it ran: a sweep may have been moved since
    return {
        "config": json.dumps(config, sort_keys=True).replace(own, ""),
        "code": made["code"],
        "student": made.get("student"),
        "start": made.get("start"),
    }


def set_aside(run: Path) -> Path:
    """Moves a former run's files to `run`/earlier-N."""
    number = 1 + len(list(run.glob("earlier-*")))
    aside = run / f"earlier-{number}"
    aside.mkdir()
    for file in list(run.iterdir()):
        if file.name not in (".hydra", ".lock") and not file.name.startswith("earlier-") and file.suffix != ".log":
            file.rename(aside / file.name)
    return aside


def keep_curve(run: Path) -> None:
    """CSVLogger begins its file anew; what an interrupted part wrote stays beside it."""
    curve = run / "csv" / "metrics.csv"
    if curve.exists():
        aside = run / f"csv.{1 + len(list(run.glob('csv.*')))}"
        aside.mkdir()
        curve.rename(aside / curve.name)


def read_made(file: Path) -> dict[str, Any] | None:
    """None where there is none. Raises Damaged, which names it."""
    if not file.exists():
        return None
    content = read_json(file)
    wrong = [key for key, kind in (("config", dict), ("code", str)) if not isinstance(content.get(key), kind)]
    if wrong:
        raise Damaged(f"{file} is damaged (no {wrong[0]} in it)")
    return content
