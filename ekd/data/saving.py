"""Traces as they come: each on the disk at once, shards in time, and a line that says how far it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from time import monotonic, sleep
from typing import NamedTuple

from ekd.data.texts import KeptTexts
from ekd.data.tracing import Grades, Tracing, packed
from ekd.engine.crew import Crew
from ekd.models.progress import ProgressBar
from ekd.store.leases import Leases
from ekd.store.unsaved import Unsaved
from ekd.types import Failure, Request, Trace

SHARD_SECONDS = 20.0  # traces become a shard after so long at the latest ...
SHARD_TRACES = 512  # ... or when there are so many; each is on disk before
PAUSE = 1.0  # seconds until one looks again whether others are done


class Traced(NamedTuple):
    failures: list[Failure]
    grades: Grades


def until_all_is_done(
    tracing: Tracing, crew: Crew, leases: Leases, waiting: Unsaved, company: Sequence[Request], kept: KeptTexts
) -> Iterator[Trace | Failure]:
    """By whomever: what others have claimed is waited for, and claimed once they are dead."""
    said = False
    while True:
        yield from tracing.traces(crew, leases.claim, company, kept)
        waiting.flush()  # others wait for it
        if not leases.left:
            return
        if not said:
            print(f"other processes ({leases.others}) make the last {leases.waiting} traces; waiting ...", flush=True)
        said = True
        sleep(PAUSE)


def save_traces(
    traces: Iterable[Trace | Failure], waiting: Unsaved, split: str, leases: Leases | None, crew: Crew
) -> Traced:
    """All that come. leases: of a collection of which it is said how far it is; its failures are told to others. crew:
    who makes them, for what it says of itself.
    """
    failed: dict[str, Failure] = {} if leases is None else leases.failed
    own, grades, saved = [], Grades(), monotonic()
    wanted = None if leases is None else leases.waiting
    try:
        with ProgressBar(f"tracing {split}", wanted, quiet=leases is None) as bar:
            for result in map(partial(packed, layout=waiting.store.layout), traces):
                if isinstance(result, Failure):
                    own.append(result)
                    failed[result.key] = result
                else:
                    waiting.add(result)
                    grades = grades.add(result.verdict, result.about[3], result.about[6])
                if leases is not None and wanted is not None:
                    made = grades.texts + len(own)  # here; what is neither waiting nor at our teacher, others made
                    note = tracing_note(bar, leases, grades, len(own)) + (crew.note and f", {crew.note}")
                    bar.update(wanted - leases.waiting - leases.claimed + made, note)
                if len(waiting.parts) >= SHARD_TRACES or monotonic() - saved > SHARD_SECONDS:
                    waiting.flush()
                    saved = monotonic()
    finally:
        waiting.flush()
    return Traced(own, grades)


def tracing_note(bar: ProgressBar, leases: Leases, grades: Grades, failures: int) -> str:
    failed = f", {failures} failed" if failures else ""
    others = f", {leases.others} others at work" if leases.others > 0 else ""
    return f"{grades.tokens / bar.seconds:,.0f} tokens/s{failed}{others}"
