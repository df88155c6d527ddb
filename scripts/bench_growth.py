"""What more of everything costs: tokens, chosen rows, vocabulary, traces, cells of a sweep.

    python scripts/bench_growth.py                    every table
    python scripts/bench_growth.py tokens rows        some
    python scripts/bench_growth.py cells --full       also 1,000 cells of 100 learning rates, which take minutes

Seconds by the clock, the least of some rounds in which all sizes take turns: another program can only add to them.
Beside them seconds a unit as a multiple of the smallest size's. A line is straight if the largest size pays at most
1.25 times as much a unit as the smallest. A cost that does not grow hides one that does, so a largest size
that pays more than 1.25 times as much as the cheapest is named, too.

Synthetic rows of 20 ids, a head of 576 x 49,152 where nothing else is said, fp32. A step is selection by the teacher's
entropy, head and loss, forward and backward, without a decoder. Sequences have 100 tokens of prompt and 156 of
response; those of the stores 16 and 2 to 9, so that a million fit, 512 in a shard as collections write them, in
/dev/shm where there is one, so that no disk is measured. Cells are those of tests/fake_sweep.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from hashlib import md5
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from bench_store_memory import ORIGIN, synthetic
from measuring import circumstances, table

from ekd.data.batch_sampler import Batches
from ekd.data.collate import Collate
from ekd.data.saving import SHARD_TRACES
from ekd.data.traces import Traces
from ekd.loss.forward_kl import ForwardKL
from ekd.models.head import Head, distill
from ekd.report.pages import sweep_page
from ekd.report.sweep import read_sweep
from ekd.selector.topk import TopK
from ekd.signal.teacher_entropy import TeacherEntropy
from ekd.store.log import Log
from ekd.store.shard import PackedTrace, part
from ekd.store.store import Store, write_shard
from ekd.types import Batch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fake_sweep import configured, hill_truth, made, write_cell

HIDDEN, VOCAB, BUDGET_MB = 576, 49_152, 96  # MB: of conf/student
RESPONSE, TOKENS = 156, 256  # of a sequence
SHORT = 0.05  # seconds; a quicker call is timed several times in a row
STRAIGHT = 1.25
METHODS = ["vanilla", "random_10", *(f"bucket_{low}_{low + 10}" for low in range(0, 80, 10))]


class Line(NamedTuple):
    """What grows with what."""

    what: str
    size: str  # the name of what is on the x axis
    points: list[tuple[int, float, float]]  # size, seconds, units of work


def least(calls: dict[int, Callable[[], object]], rounds: int = 3) -> dict[int, float]:
    """Seconds of a call, for each size."""
    best, repeats = {}, {}
    for size, call in calls.items():  # libraries load, memory is touched for the first time
        took = clock(call, 1)
        repeats[size] = max(1, int(SHORT / took))
        best[size] = took if rounds == 1 else float("inf")
    for _ in range(rounds if rounds > 1 else 0):
        for size, call in calls.items():
            best[size] = min(best[size], clock(call, repeats[size]))
    return best


def clock(call: Callable[[], object], times: int) -> float:
    began = perf_counter()
    for _ in range(times):
        call()
    return (perf_counter() - began) / times


def line(what: str, size: str, calls: dict[int, Callable[[], object]], units: Callable[[int], float] = float) -> Line:
    return Line(what, size, [(at, seconds, units(at)) for at, seconds in least(calls).items()])


def step(batch: Batch, hidden: torch.Tensor, head: Head, k_percent: float) -> None:
    """What a training step does behind the decoder, backward included."""
    hidden.grad = head.weight.grad = None
    keep = chosen(batch, k_percent)
    rows = batch.rows
    known = rows.teacher_ids[keep], rows.teacher_logprobs[keep]
    distill(hidden[keep], head, *known, torch.ones(len(keep)), ForwardKL(), budget_mb=BUDGET_MB)[0].backward()


def chosen(batch: Batch, k_percent: float) -> torch.Tensor:
    """Numbers of the rows that pay."""
    weight = TopK(k_percent=k_percent, scope="sequence")(TeacherEntropy()(batch.rows), batch.rows.sequence)
    return (weight > 0).nonzero()[:, 0]


def selections(batch: Batch, k_percent: float) -> Callable[[], object]:
    """Of other scores each time: a processor learns by heart how to sort a few thousand that it has just sorted."""
    scores = torch.rand(64, len(batch.rows.target))
    fresh = cycle([batch._replace(rows=batch.rows._replace(teacher_entropy=score)) for score in scores])
    return lambda: chosen(next(fresh), k_percent)


def head_of(vocab: int) -> Head:
    return Head((torch.randn(vocab, HIDDEN) * 0.05).requires_grad_())


def hidden_of(batch: Batch) -> torch.Tensor:
    return torch.randn(len(batch.rows.target), HIDDEN, requires_grad=True)


def tokens(_: bool) -> list[Line]:
    """A step and its collation, 1,024 to 16,384 tokens, of which 61% are responses and 20% of those are chosen."""
    some, head, collate = [synthetic(i, n=RESPONSE) for i in range(64)], head_of(VOCAB), Collate(VOCAB)
    sizes = [1024 * 2**i for i in range(5)]
    batches = {size: collate(some[: size // TOKENS]) for size in sizes}
    steps = {size: partial(step, batch, hidden_of(batch), head, 20) for size, batch in batches.items()}
    return [
        line("selection, head and loss", "tokens", steps),
        line("selection alone", "tokens", {size: selections(batch, 20) for size, batch in batches.items()}),
        line("collate", "tokens", {size: partial(collate, some[: size // TOKENS]) for size in sizes}),
    ]


def rows(_: bool) -> list[Line]:
    """A step of 4,096 tokens, 2,496 of them response rows, of which 5% to 100% are chosen; a unit is a chosen row."""
    batch, head = Collate(VOCAB)([synthetic(i, n=RESPONSE) for i in range(16)]), head_of(VOCAB)
    hidden = hidden_of(batch)
    steps = {share: partial(step, batch, hidden, head, share) for share in (5, 10, 20, 50, 100)}
    return [line("selection, head and loss", "% of rows", steps, lambda share: len(chosen(batch, share)))]


def vocabulary(_: bool) -> list[Line]:
    """A step of 312 rows, all chosen, through heads of 32,768 to 262,144 rows."""
    some, sizes, steps = (
        [synthetic(i, n=RESPONSE, vocab=32_768) for i in range(2)],
        [32_768 * 2**i for i in range(4)],
        {},
    )
    for size in sizes:
        batch = Collate(size)(some)
        steps[size] = partial(step, batch, hidden_of(batch), head_of(size), 100)
    return [line("selection, head and loss", "vocabulary", steps)]


def traces(_: bool) -> list[Line]:
    """One store that grows from 1,024 to 1,024,000 traces. Plans and reads are of batches of 4,096 tokens; a unit of
    reading is a batch, so that its line is flat if a large store reads as a small one.
    """
    found: dict[str, list[tuple[int, float, float]]] = {}
    with scratch() as top:
        folder, there = top / "store", 0
        layout = Store.create(folder, ORIGIN).layout
        some = [part(synthetic(i, n=2 + i % 8), layout) for i in range(64)]
        some = [one._replace(about=[*one.about[:5], 16, *one.about[6:]], prompt_ids=np.arange(16)) for one in some]
        for size in (1024, 10_240, 102_400, 1_024_000):
            fill(folder, some, range(there, size))
            there = size
            for what, seconds, units in reading(folder, size):
                found.setdefault(what, []).append((size, seconds, units))
    return [Line(what, "traces", points) for what, points in found.items()]


def reading(folder: Path, size: int) -> Iterator[tuple[str, float, float]]:
    """What is done, seconds, units."""
    began = perf_counter()
    store = Store(folder)
    keys = sorted(store.keys())
    yield "a store opened, its keys sorted", perf_counter() - began, size
    began = perf_counter()
    data = Traces(store, keys)
    yield "lengths of all traces", perf_counter() - began, size
    began = perf_counter()
    batches = Batches(data.lengths, max_tokens=4096, seed=0)
    yield "an epoch planned", perf_counter() - began, size
    plan, seconds = batches.plan(0), []
    for number in range(24):
        began = perf_counter()
        Collate(VOCAB)([data[index] for index in plan[number % len(plan)]])
        seconds.append(perf_counter() - began)
    yield "a batch read and collated, median of 20", float(np.median(seconds[4:])), 1


def fill(folder: Path, some: Sequence[PackedTrace], numbers: range) -> None:
    """As collections would have, by all cores. The processes fork: what they do, numpy and pyarrow do."""
    parts = [numbers[at : at + SHARD_TRACES] for at in range(0, len(numbers), SHARD_TRACES)]
    log = Log(folder)
    with ProcessPoolExecutor(mp_context=get_context("fork")) as pool:
        for shard in pool.map(partial(shard_of, folder, some), parts, chunksize=8):
            log.add(shard)


def shard_of(folder: Path, some: Sequence[PackedTrace], numbers: range) -> dict[str, Any]:
    return write_shard(folder, [named(some[number % len(some)], number) for number in numbers], ORIGIN)


def named(one: PackedTrace, number: int) -> PackedTrace:
    """Under a key that is a hash, as keys are: neighbours in order are in different shards."""
    return one._replace(about=[md5(str(number).encode()).hexdigest(), *one.about[1:]])


def cells(full: bool) -> list[Line]:
    """The page of a sweep of 10 methods: of more seeds, and of more learning rates with one seed, each of
    which has figures and tables of its own.
    """
    found = []
    for what, sizes in (("seeds", (10, 100, 1000)), ("learning rates", (10, 100, 1000) if full else (10, 100))):
        with scratch() as top:
            folders = {size: sweep(top / f"{what}_{size}", size, what) for size in sizes}
            sweep_page(folders[10], top / "warm")  # matplotlib finds its fonts
            found.append(
                line(f"cells read, more {what}", "cells", {n: partial(read_sweep, f) for n, f in folders.items()})
            )
            pages = least({n: partial(sweep_page, f) for n, f in folders.items()}, rounds=1)
            found.append(Line(f"the whole page, more {what}", "cells", [(n, s, n) for n, s in pages.items()]))
    return found


def sweep(folder: Path, size: int, what: str) -> Path:
    chance = np.random.default_rng(0)
    for number in range(size):
        method, more = METHODS[number % len(METHODS)], number // len(METHODS)
        seed, rate = (more, 1e-3) if what == "seeds" else (0, 1e-5 * (more + 1))
        config = configured(method, seed)
        config["student"] |= {"optimizer": {"lr": rate}}
        cell = made(method, seed, hill_truth(method) + chance.normal(0, 0.01), budget="steps", config=config)
        write_cell(folder / f"lr_{rate:.0e}_{more}" / method / f"seed_{seed}", cell)
    return folder


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as top:
        yield Path(top)


def shown(found: Line) -> str:
    units = [seconds / count for _, seconds, count in found.points]
    lines = [
        [f"{size:,}", f"{seconds:.2g}" if seconds < 10 else f"{seconds:.0f}", f"{unit / units[0]:.2f}"]
        for (size, seconds, _), unit in zip(found.points, units, strict=True)
    ]
    header = [found.size, "seconds", "a unit, times the smallest size's"]
    return f"**{found.what}**: {verdict(units)}\n\n{table(header, lines)}\n"


def verdict(units: Sequence[float]) -> str:
    """units: seconds a unit, by size."""
    grown, cheapest = units[-1] / units[0], units[-1] / min(units)
    said = "straight" if grown <= STRAIGHT else "not straight"
    return said + (f", {cheapest:.2f} times the cheapest size's" if grown <= STRAIGHT < cheapest else "")


TABLES: dict[str, Callable[[bool], list[Line]]] = {
    "tokens": tokens,
    "rows": rows,
    "vocabulary": vocabulary,
    "traces": traces,
    "cells": cells,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", default=list(TABLES), metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--full", action="store_true", help="the sizes that take minutes, too")
    words = parser.parse_args()
    if unknown := [name for name in words.tables if name not in TABLES]:
        parser.error(f"there is no table {' '.join(unknown)}: give some of {', '.join(TABLES)}")
    print(circumstances("torch", "numpy", "pyarrow", "matplotlib"), flush=True)
    for name in words.tables:
        torch.manual_seed(0)
        began = perf_counter()
        print(f"\n## {name}\n\n{' '.join((TABLES[name].__doc__ or '').split())}\n", flush=True)
        for found in TABLES[name](words.full):
            print(shown(found), flush=True)
        print(f"({perf_counter() - began:.0f} seconds)", flush=True)


if __name__ == "__main__":
    main()
