"""Memory while reading a store that is far larger than the page cache.

    python scripts/bench_store_memory.py --gigabytes 4 --limit 400    # as root on Linux: a memory cgroup of 400 MB

Writes a synthetic store, then reads every byte of it in order, and a sample of it at random, in a process whose memory
(page cache included) the kernel limits. Without permission to make a cgroup the limit is left out and it says so; the
process's own memory (anonymous pages) must stay flat either way.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import numpy as np

from ekd.store.shard import PackedTrace, part
from ekd.store.store import Store
from ekd.types import Trace

ORIGIN = {"vocab": 49_152, "teacher": "synthetic"}


def synthetic(seed: int, n: int = 1000, k: int = 20, vocab: int = ORIGIN["vocab"]) -> Trace:
    chance = np.random.default_rng(seed)
    logprobs = -np.sort(chance.exponential(2.0, (n, k)), axis=1)
    logprobs -= np.log(np.exp(logprobs).sum(1, keepdims=True) / 0.99)
    ids = draws(chance, n, k, vocab)
    return Trace(
        key=f"{seed:032x}",
        problem_id="synthetic",
        sample=0,
        finish="length",
        prompt_ids=chance.integers(0, vocab, 100).astype(np.int32),
        response_ids=ids[:, 0].astype(np.int32),
        counts=np.full(n, k, np.int32),
        ids=ids.astype(np.int32).ravel(),
        logprobs=logprobs.astype(np.float32).ravel(),
        log_tail=np.full(n, np.log(0.01), np.float32),
        entropy=chance.uniform(0, 4, n).astype(np.float32),
        exact=True,
        valid=np.ones(n, bool),
        log_norm=np.zeros((n, 0), np.float32),
    )


def draws(chance: np.random.Generator, n: int, k: int, vocab: int) -> np.ndarray:
    """Different ids in each row, without sorting a vocabulary: one from each of k stripes."""
    stripe = vocab // k
    return np.arange(k) * stripe + chance.integers(0, stripe, (n, k))


def write(folder: Path, gigabytes: float) -> int:
    """The same packed rows under ever new keys, in shards of about 64 MB. Returns the number of traces."""
    store = Store.create(folder, ORIGIN)
    packed = [part(synthetic(seed), store.layout) for seed in range(64)]
    size = sum(len(one.rows) for one in packed) / len(packed)
    shard = max(int(64e6 / size), 1)
    total = int(gigabytes * 1e9 / size)
    for at in range(0, total, shard):
        store.put([renamed(packed[i % 64], i) for i in range(at, min(at + shard, total))])
    return total


def forget(folder: Path) -> None:
    """Out of the page cache, so that the reader has to bring in, within its limit, every page that it reads."""
    os.sync()
    for file in folder.rglob("*.arrows"):
        with file.open("rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def renamed(one: PackedTrace, number: int) -> PackedTrace:
    return one._replace(about=[f"{number:032x}", *one.about[1:]])


def read(folder: Path, sample: int) -> None:
    """Every byte once, in order, with checksums; then some traces at random, decoded. Prints memory on the way."""
    store = Store(folder)
    total, began = len(store), perf_counter()
    say("index", 0, began)
    done = 0
    for file in list(store.shards):
        shard = store.shard(file)
        for row in range(len(shard)):
            shard.part(row)
        done += len(shard)
        if done * 5 // total != (done - len(shard)) * 5 // total:
            say(f"{done / total:4.0%} in order", done, began)
    began = perf_counter()
    for at, key in enumerate(random.Random(0).sample(sorted(store.keys()), min(sample, total)), 1):
        store[key]
        if at % (sample // 4) == 0:
            say(f"{at:,} at random", at, began)


def say(what: str, traces: int, began: float) -> None:
    memory = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, mapped = (int(memory[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
    rate = traces / max(perf_counter() - began, 1e-9)
    print(f"{what:>18}: own memory {own:6.0f} MB, mapped {mapped:6.0f} MB, {rate:8,.0f} traces a second", flush=True)


@contextlib.contextmanager
def limited(megabytes: int) -> Iterator[Path | None]:
    """A memory cgroup (version 1 or 2), or None where this process may not make one."""
    old, new = Path("/sys/fs/cgroup/memory/ekd-bench"), Path("/sys/fs/cgroup/ekd-bench")
    group, knob = (old, "memory.limit_in_bytes") if old.parent.is_dir() else (new, "memory.max")
    try:
        group.mkdir()
        (group / knob).write_text(f"{megabytes * 1_000_000}")
    except OSError as error:
        print(f"no memory limit: {error}")
        yield None
        return
    try:
        yield group
    finally:
        group.rmdir()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--limit", type=int, default=300, help="MB for the reader, page cache included")
    parser.add_argument("--sample", type=int, default=2000, help="traces to read at random")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--group", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        if options.group:
            (options.group / "cgroup.procs").write_text(str(os.getpid()))
        read(options.folder, options.sample)
        return
    scratch = Path(tempfile.mkdtemp())
    try:
        traces = write(scratch / "big", options.gigabytes)
        forget(scratch / "big")
        print(f"{options.gigabytes:g} GB: {traces:,} traces of 1,000 tokens; the reader may use {options.limit} MB")
        with limited(options.limit) as group:
            command = [sys.executable, __file__, "--folder", str(scratch / "big"), "--sample", str(options.sample)]
            subprocess.run([*command, *(["--group", str(group)] if group else [])], check=True)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
