"""Batches from several places, each as often as its share says: cached and own texts, or several stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Dataset, Sampler

from ekd.data.rounds import RoundBatches, Rounds
from ekd.data.source import Serving
from ekd.data.taught import Taught
from ekd.data.teachers import Mean
from ekd.data.traces import Traces
from ekd.store.location import Location
from ekd.store.store import Store
from ekd.store.tokenizer import check_tokenizer
from ekd.types import Trace

Stream = Callable[[int], Iterator[list[str]]]  # from the n-th batch of this place on, without end
Place = tuple[int, str]  # of a trace: which store, which key


@dataclass(frozen=True, kw_only=True)
class Mix:
    """A share of the batches is the student's own text, by rounds; the others are cached traces.

    Source: Agarwal et al. 2023 (GKD: lambda is the share), arXiv 2306.13649.
    """

    share: float
    rounds: Rounds

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(
                f"source.share (of own texts) is between 0 and 1, not {self.share}: without own texts it is "
                "source=null, with nothing else source=rounds"
            )

    def check(self, data: Serving) -> None:
        self.rounds.check(data)

    @property
    def cached(self) -> bool:
        return True

    def loader(self, data: Serving) -> DataLoader[Trace]:
        maker = self.rounds.maker(data)
        traces = data.traces("train")
        own = RoundBatches(maker, 0)
        blend = Blend([cached(data, traces), own.stream], [1 - self.share, self.share], data)
        return data.as_loader(Several([data.store, maker.store]), blend, data.store)

    def written(self, data: Serving) -> Location | None:
        return self.rounds.written(data)

    def seen(self, data: Serving) -> list[Taught]:
        return [Taught(data.store, data.traces("train").keys), *self.rounds.seen(data)]


@dataclass(frozen=True, kw_only=True)
class Stores:
    """Any stores as they are, all of their traces: rounds of an earlier run, several teachers. weights: how often each
    is drawn from, as a share of the batches; None: as often as the others. mean: a text that all stores hold counts
    once, with the mean of what its teachers say, and the other texts not at all.
    """

    paths: Sequence[str]
    weights: Sequence[float] | None
    mean: bool = False

    def __post_init__(self) -> None:
        if not self.paths:
            raise ValueError("source.paths names no store: source.paths=[FOLDER,...]")
        if self.weights is not None and (len(self.weights) != len(self.paths) or min(self.weights) <= 0):
            raise ValueError(
                f"source.weights are {len(self.paths)} numbers above 0, one for each store, not {list(self.weights)}"
            )
        if self.mean and (self.weights is not None or len(self.paths) < 2):
            raise ValueError(
                "source.mean=true takes the mean of two stores or more, each text once: give their source.paths, and "
                "source.weights=null"
            )

    @property
    def cached(self) -> bool:
        return False

    def check(self, data: Serving) -> None:
        """Before any work. Raises ValueError for stores that cannot be read together."""
        stores = self.open()
        if data.samples is not None:
            raise ValueError(
                "source=stores reads all of its stores' traces, so data/samples chooses none: set data/samples=null"
            )
        if self.mean and data.temperature != 1:
            raise ValueError(
                f"source.mean=true is known at temperature 1 alone: set student.temperature=1, not {data.temperature}"
            )
        for store in stores:
            check_tokenizer(store.origin, data.collector.student_tokenizer)
            if not store.keys():
                raise ValueError(f"{store.path} holds no traces, so nothing can be learnt from it: leave it out")
            kept = [(s.layout._replace(read=0), s.origin["temperatures"]) for s in (store, stores[0])]
            if kept[0] != kept[1]:  # what tokenizer each teacher read with is no matter
                raise ValueError(
                    f"{store.path} and {stores[0].path} keep other rows ({store.layout} and {stores[0].layout}): train "
                    "from stores whose teachers have the same vocabulary, draws and temperatures"
                )

    def open(self) -> list[Store]:
        return [Store(path) for path in self.paths]

    def loader(self, data: Serving) -> DataLoader[Trace]:
        stores = self.open()
        if self.mean:
            together = Mean(stores)
            rank_zero_info(f"source.mean: {len(together.keys())} texts that all {len(stores)} stores hold")
            traces = Traces(together, together.keys())
            return data.as_loader(traces, data.batches(traces, data.done), stores[0])
        streams = [cached(data, Traces(store, sorted(store.keys()))) for store in stores]
        weights = np.array(self.weights or [1.0] * len(stores))
        return data.as_loader(Several(stores), Blend(streams, (weights / weights.sum()).tolist(), data), stores[0])

    def written(self, data: Serving) -> Location | None:
        return None

    def seen(self, data: Serving) -> list[Taught]:
        stores = self.open()
        return Mean(stores).seen() if self.mean else [Taught(store, sorted(store.keys())) for store in stores]


def cached(data: Serving, traces: Traces) -> Stream:
    """Cached traces as a stream of keys, in the order that they have without a mix."""
    batches = data.batches(traces, position=0)
    return lambda start: ([traces.keys[i] for i in batch] for batch in batches.stream(start))


class Blend(Sampler[list[Place]]):
    """Batches of this rank: which place each is from is drawn by its number, so that a run that goes on draws the same,
    and all ranks draw alike. Each place is read on from where it was left.
    """

    size = 1000  # batches of an epoch, which has no other meaning here

    def __init__(self, streams: Sequence[Stream], shares: Sequence[float], data: Serving) -> None:
        self.streams, self.shares, self.seed, self.position = streams, shares, data.seed, data.done

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[list[Place]]:
        start, self.position = self.position, (self.position // self.size + 1) * self.size
        done = np.bincount([self.choice(n) for n in range(start)], minlength=len(self.streams))
        opened = [stream(int(at)) for stream, at in zip(self.streams, done, strict=True)]
        for number in range(start, self.position):
            place = self.choice(number)
            yield [(place, key) for key in next(opened[place])]

    def choice(self, number: int) -> int:
        return int(np.random.default_rng([self.seed, 2, number]).choice(len(self.shares), p=self.shares))


class Several(Dataset[Trace]):
    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = stores

    def __getitem__(self, place: Place) -> Trace:
        store, key = place
        return self.stores[store][key]
