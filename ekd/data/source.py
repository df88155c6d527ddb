"""Where training batches come from, and what such a source is told: the student never asks which it is."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Protocol

import lightning as L
from torch.utils.data import DataLoader, Dataset, Sampler

from ekd.data.batch_sampler import Batches
from ekd.data.collect import Collector
from ekd.data.taught import Taught
from ekd.data.traces import Traces
from ekd.store.location import Location
from ekd.store.store import Store
from ekd.types import Trace


class Serving(Protocol):
    """What a source may ask of the data module that serves its batches."""

    trainer: L.Trainer | None
    collector: Collector
    counts: dict[str, int | None]  # problems of each split
    store: Store  # of the cached traces
    samples: Any
    max_tokens: int
    packing: bool
    temperature: float
    seed: int
    workers: int
    done: int  # micro-batches of this rank that were trained on before a resume
    closing: ExitStack  # what is to be closed when the run ends

    def traces(self, split: str) -> Traces: ...

    def batches(self, traces: Traces, position: int) -> Batches: ...

    def as_loader(self, traces: Dataset[Trace], batches: Sampler[Any], store: Store) -> DataLoader[Trace]: ...


class Source(Protocol):
    """Where training batches come from, where that is not the cached traces of the train split."""

    @property
    def cached(self) -> bool:
        """Whether the train split's traces are wanted, too."""

    def check(self, data: Serving) -> None:
        """Before any work. Raises ValueError, one sentence, for what cannot be."""

    def loader(self, data: Serving) -> DataLoader[Trace]:
        """Of this rank, from data.done on."""

    def written(self, data: Serving) -> Location | None:
        """The store of what is written while training; None: nothing is."""

    def seen(self, data: Serving) -> list[Taught]:
        """What was trained on so far."""
