"""Where the seconds go between the command and its first training step, on a warm cache.

    python scripts/bench_start.py                                   experiment=tiny and experiment=demo
    python scripts/bench_start.py experiment=demo selector=topk     any words of ekd.train

Each run is a process of its own, made twice: the first fills the cache, the second is measured. Both end after their
first step. A phase is charged for what happens in it and in no phase within it. Seconds of all cores, and of the clock,
which other programs make longer. Then what a command costs that does no work: help, the doctor, mistakes.
"""

from __future__ import annotations

import builtins
import gc
import importlib
import json
import os
import resource
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from time import perf_counter
from typing import Any

from measuring import circumstances, table

COLLECTING, IMPORTS, OTHERS = "garbage collection", "imports", "all else"
PHASES = {
    "ekd.cli.command:check_command": "command line checked",
    "hydra._internal.hydra:Hydra.compose_config": "composed by Hydra",
    "ekd.data.collect:Collector.check_count": "dataset",
    "ekd.eval.benchmark:Benchmark.questions": "dataset",
    "ekd.data.collect:Collector.requests": "requests",
    "ekd.data.collect:Collector.open": "traces opened",
    "ekd.distill.student:Student.configure_model": "student loaded",
    "lightning.pytorch.trainer.trainer:Trainer.validate": "held-out figures before training",
    "ekd.distill.student:Student.training_step": "first step",
    "lightning.pytorch.core.module:LightningModule.backward": "first step",
    "ekd.distill.student:Student.optimizer_step": "first step",
}
END = "ekd.distill.student:Student.on_train_batch_end"
CHILD = "--child"
IDLE = ("", "doctor", "train --help", "train selector=nope", "train trainer.max_steps=many", "train dataset.x=3")


class Stopwatch:
    """Seconds of all cores and of the clock, by phase; a phase within another stops that one's."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}
        self.open = [OTHERS]
        self.last = (0.0, perf_counter())  # the process's seconds so far belong to the first phase

    def charge(self) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        now = used.ru_utime + used.ru_stime, perf_counter()
        cpu, clock = self.spent.setdefault(self.open[-1], [0.0, 0.0])
        self.spent[self.open[-1]] = [cpu + now[0] - self.last[0], clock + now[1] - self.last[1]]
        self.last = now

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.charge()
        self.open.append(name)
        try:
            yield
        finally:
            self.charge()
            self.open.pop()

    def collecting(self, when: str, _: dict[str, int]) -> None:
        self.charge()
        if when == "start":
            self.open.append(COLLECTING)
        else:
            self.open.pop()


Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]


def charged(watch: Stopwatch, name: str) -> Wrapper:
    def wrapper(work: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(work)
        def timed(*words: Any, **named: Any) -> Any:
            with watch.phase(name):
                return work(*words, **named)

        return timed

    return wrapper


def ending(watch: Stopwatch, out: Path) -> Wrapper:
    """The process ends where this would be called."""

    def ended(*_: Any) -> None:
        watch.charge()
        out.write_text(json.dumps(watch.spent))
        os._exit(0)

    return lambda work: ended


def watch_imports(watch: Stopwatch, wrappers: dict[str, Wrapper]) -> None:
    """Every import is charged, and what is to be wrapped is so as soon as its module is there."""

    def imported(load: Callable[..., Any]) -> Callable[..., Any]:
        def loaded(*words: Any, **named: Any) -> Any:
            with nullcontext() if watch.open[-1] == IMPORTS else watch.phase(IMPORTS):
                module = load(*words, **named)
            for target in [target for target in wrappers if ready(target)]:
                put(target, wrappers.pop(target))
            return module

        return loaded

    builtins.__import__ = imported(builtins.__import__)
    importlib.import_module = imported(importlib.import_module)


def ready(target: str) -> bool:
    module, _, path = target.partition(":")
    return hasattr(sys.modules.get(module), path.partition(".")[0])


def put(target: str, wrapper: Wrapper) -> None:
    """target: MODULE:CLASS.METHOD."""
    module, _, path = target.partition(":")
    owner, _, method = path.rpartition(".")
    holder = getattr(sys.modules[module], owner) if owner else sys.modules[module]
    setattr(holder, method, wrapper(getattr(holder, method)))


def child(out: Path, words: list[str]) -> None:
    """`ekd.train` in this process, until its first step is done."""
    watch = Stopwatch()
    wrappers = {target: charged(watch, name) for target, name in PHASES.items()}
    watch_imports(watch, wrappers | {END: ending(watch, out)})
    gc.callbacks.append(watch.collecting)
    sys.argv = ["train", *words]
    runpy.run_module("ekd.train", run_name="__main__", alter_sys=True)


def measured(words: list[str]) -> dict[str, list[float]]:
    """Phase -> seconds of all cores, seconds by the clock."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "spent.json"
        for run in ("fills the cache", "measured"):
            command = [
                sys.executable,
                __file__,
                CHILD,
                str(out),
                *words,
                f"hydra.run.dir={folder}/{run.replace(' ', '-')}",
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode or not out.exists():
                sys.exit(f"{' '.join(words)}: {done.stderr.strip()[-2000:]}")
        spent: dict[str, list[float]] = json.loads(out.read_text())
    return spent


def idle(words: str) -> tuple[float, float]:
    """What a command costs that does no work."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), perf_counter()
    subprocess.run([sys.executable, "-m", "ekd", *words.split()], capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, perf_counter() - began


def main() -> None:
    if sys.argv[1:2] == [CHILD]:
        child(Path(sys.argv[2]), sys.argv[3:])
        return
    runs = [sys.argv[1:]] if sys.argv[1:] else [["experiment=tiny"], ["experiment=demo"]]
    print(circumstances("torch", "transformers", "lightning", "hydra-core"), flush=True)
    for words in runs:
        spent = measured(words)
        order = [IMPORTS, COLLECTING, *dict.fromkeys(PHASES.values()), OTHERS]
        rows = [[name, *(f"{seconds:.2f}" for seconds in spent.get(name, [0.0, 0.0]))] for name in order]
        rows.append(
            ["**until the first step is done**", *(f"**{sum(s):.2f}**" for s in zip(*spent.values(), strict=True))]
        )
        print("\n" + table([f"`{' '.join(words)}`", "seconds of all cores", "by the clock"], rows), flush=True)
    rows = [[f"`ekd {words}`", *(f"{seconds:.2f}" for seconds in idle(words))] for words in IDLE]
    print("\n" + table(["no work", "seconds of all cores", "by the clock"], rows))


if __name__ == "__main__":
    main()
