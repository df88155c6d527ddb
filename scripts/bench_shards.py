"""What one more shard costs a store that holds many already, and what opening such a store costs.

    TMPDIR=/dev/shm python scripts/bench_shards.py --shards 15000

A store of so many shards of one small trace each, as a folder of many writers may hold before `store merge`. It is made
in the temporary folder (/dev/shm: in memory, so that waiting for a disk is not what is measured). `--logged`: how many
of the shards only logs name; the others are in the manifest.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fake_traces import fake_trace

from ekd.store.log import Log, fold
from ekd.store.shard import part
from ekd.store.store import Store, lock, write_shard

ORIGIN = {"vocab": 1000, "teacher": "nobody"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=15_000)
    parser.add_argument("--logged", type=int, default=1_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top) / "s"
        store = Store.create(folder, ORIGIN)
        packed = part(fake_trace(0, rows=20), store.layout)
        first = timed(store, packed, range(20))
        fill(folder, packed, range(20, options.shards - options.logged))
        with lock(folder):
            fold(folder)
        fill(folder, packed, range(options.shards - options.logged, options.shards))
        began = perf_counter()
        store = Store(folder)
        keys = len(store.keys())
        opened = perf_counter() - began
        last = timed(store, packed, range(options.shards, options.shards + 50))
        began = perf_counter()
        Store.create(folder, ORIGIN)
        folded = perf_counter() - began
    print(f"{keys:,} shards, {options.logged:,} of them in a log")
    print(f"one more shard: {first * 1e3:.1f} ms when there were few, {last * 1e3:.1f} ms now (median)")
    print(f"opening and every key: {opened:.2f} s; opening to write, which folds the logs: {folded:.2f} s")


def named(packed, n: int):  # type: ignore[no-untyped-def]
    return packed._replace(about=[f"{n:032x}", *packed.about[1:]])


def timed(store: Store, packed, numbers: range) -> float:  # type: ignore[no-untyped-def]
    """Median seconds of an append."""
    seconds = []
    for n in numbers:
        began = perf_counter()
        store.put([named(packed, n)])
        seconds.append(perf_counter() - began)
    return median(seconds)


def fill(folder: Path, packed, numbers: range) -> None:  # type: ignore[no-untyped-def]
    """As other writers would have, without the waiting."""
    log = Log(folder)
    for n in numbers:
        log.add(write_shard(folder, [named(packed, n)], ORIGIN))


if __name__ == "__main__":
    main()
