"""How warm teachers are asked: requests are claimed as they are wanted, and traces come as they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain, islice
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np

from ekd.types import Failure, Opens, Request, Teacher, Trace

AGAIN = 64  # traces that are read a second time together, by a teacher that has no batches
WINDOW = 64  # batches of a teacher that has some are of like length within so many
AHEAD = 64  # requests that are claimed together for one that has none
Claim: TypeAlias = Callable[[int, int], list[Request]]  # at least, at most -> further requests, [] where there are none


@runtime_checkable
class Batched(Protocol):
    """A teacher that reads several texts at once: its sums are rounded by the company that a text keeps."""

    batch_size: int


class Crew(Protocol):
    """Warm teachers, one or several, that are asked as one."""

    def trace(self, claim: Claim) -> Iterator[Trace | Failure]:
        """As they come, until there is nothing to claim and all that was claimed is answered."""

    @property
    def note(self) -> str:
        """How it goes, for the progress line; "" where there is nothing to say."""


class Engine(Protocol):
    """Where teachers are asked. again: they read each text a second time, under the request's second prompt."""

    def open(self, teacher: Teacher, *, again: bool) -> AbstractContextManager[Crew]: ...


@contextmanager
def opened(teacher: Teacher) -> Iterator[Teacher]:
    """The same teacher, warm where it can be."""
    with teacher.open() if isinstance(teacher, Opens) else nullcontext(teacher) as warm:
        yield warm


def answers(teacher: Teacher, claim: Claim, *, again: bool) -> Iterator[Trace | Failure]:
    """What one warm teacher says, in its own order."""
    if not again:
        yield from asked_in_windows(teacher, claim)
        return
    known: dict[str, Request] = {}  # what is with the teacher

    def remembered(least: int, most: int) -> list[Request]:
        found = claim(least, most)
        known.update((request.key, request) for request in found)
        return found

    yield from contrasted(asked_in_windows(teacher, remembered), known, teacher)


def asked_in_windows(teacher: Teacher, claim: Claim) -> Iterator[Trace | Failure]:
    """A teacher with batches is given a window at a time, of which it makes them; another takes as it can."""
    if isinstance(teacher, Batched):
        size = teacher.batch_size
        for window in iter(lambda: claim(size, WINDOW * size), []):
            yield from teacher.trace(window)
    else:
        yield from teacher.trace(chain.from_iterable(iter(lambda: claim(1, AHEAD), [])))


def contrasted(
    made: Iterable[Trace | Failure], known: dict[str, Request], teacher: Teacher
) -> Iterator[Trace | Failure]:
    """The same, each trace with ln p of its tokens under the request's second prompt."""
    results, size = iter(made), teacher.batch_size if isinstance(teacher, Batched) else AGAIN
    while group := list(islice(results, size)):
        asked = {result.key: known.pop(result.key) for result in group}
        traces = {trace.key: trace for trace in group if isinstance(trace, Trace)}
        yield from (result for result in group if isinstance(result, Failure))
        second = [
            asked[key]._replace(
                prompt_ids=asked[key].contrast_prompt_ids or [], response_ids=trace.response_ids.tolist()
            )
            for key, trace in traces.items()
        ]
        for seen in teacher.trace(second):
            yield seen if isinstance(seen, Failure) else traces[seen.key]._replace(contrast=of_response(seen))


def of_response(trace: Trace) -> np.ndarray:
    """(n,) ln p of each token that came; NaN where the teacher says nothing of it."""
    log_p = trace.logprobs[np.cumsum(trace.counts) - trace.counts].astype(np.float32)
    came: np.ndarray = np.where(trace.valid, log_p, np.float32(np.nan))
    return came


def all_at_once(requests: Sequence[Request]) -> Claim:
    """Nobody else asks for any of them."""
    left = [list(requests)]
    return lambda least, most: left.pop() if left else []


def batches_of(requests: Sequence[Request], size: int) -> list[list[Request]]:
    """What is asked together: of like length, the longest first, and the same whatever is there already."""
    ordered = sorted(requests, key=lambda r: -len(r.prompt_ids) - len(r.response_ids or ()))
    return [ordered[at : at + size] for at in range(0, len(ordered), size)]
