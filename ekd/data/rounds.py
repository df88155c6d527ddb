"""On-policy: by rounds the student writes, the teacher reads, and what it says becomes batches like any other's.

A round's texts and traces go into a store under keys that hold the run and the round, so a run that goes on, and every
other selector and loss, reads them again. The store is the only memory: a round that is there is not made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

import lightning as L
from torch.utils.data import DataLoader, Dataset, Sampler

from ekd.data.round_maker import RoundMaker, RoundPlan
from ekd.data.source import Serving
from ekd.data.taught import Taught
from ekd.data.tracing import scoring
from ekd.models.checkpoint import Checkpoints
from ekd.store.location import Location
from ekd.store.store import Store
from ekd.types import Trace


@dataclass(frozen=True, kw_only=True)
class Rounds(RoundPlan):
    """Source: Agarwal et al. 2023 (GKD, lambda = 1), arXiv 2306.13649."""

    def check(self, data: Serving) -> None:
        """Before any work. Raises ValueError where no round could be made, or its texts would not fit."""
        scoring(data.collector.teacher, "source=rounds")
        if data.workers:
            raise ValueError(
                f"data.workers={data.workers} would fetch batches before their round is written: set data.workers=0"
            )
        if data.samples is not None:
            raise ValueError("source=rounds writes its own texts, so data/samples chooses none: set data/samples=null")
        requests = data.collector.requests("train", data.counts["train"], texts=False)
        longest = max(len(r.prompt_ids) for r in requests) + self.sampling.max_new_tokens
        if longest > data.max_tokens:
            raise ValueError(
                f"a text of source.sampling.max_new_tokens={self.sampling.max_new_tokens} after the longest prompt has "
                f"{longest} tokens and data.max_tokens is {data.max_tokens}: raise one, or lower the other"
            )

    @property
    def cached(self) -> bool:
        return False

    def maker(self, data: Serving) -> RoundMaker:
        assert data.trainer is not None
        return data.closing.enter_context(RoundMaker(self, data, data.trainer, run_digest(data.trainer)))

    def loader(self, data: Serving) -> DataLoader[Trace]:
        maker = self.maker(data)
        return data.as_loader(ByKey(maker), RoundBatches(maker, data.done), maker.store)

    def written(self, data: Serving) -> Location | None:
        assert data.trainer is not None
        return self.folder(data.trainer)

    def seen(self, data: Serving) -> list[Taught]:
        assert data.trainer is not None
        store = Store(self.folder(data.trainer))
        return [Taught(store, sorted(store.keys()))]


def run_digest(trainer: L.Trainer) -> str:
    """What decides the weights that write: the same run, going just as far."""
    own = trainer.strategy.checkpoint_io
    run = own.run if isinstance(own, Checkpoints) else {}
    return hashlib.sha256(json.dumps([run, trainer.max_steps], sort_keys=True, default=str).encode()).hexdigest()


class RoundBatches(Sampler[list[str]]):
    """Keys of this rank's batches, round after round; an epoch is a round. position: batches that are done."""

    def __init__(self, maker: RoundMaker, position: int) -> None:
        self.maker, self.position = maker, position

    def __len__(self) -> int:
        return self.maker.per_rank

    def __iter__(self) -> Iterator[list[str]]:
        start, self.position = self.position, (self.position // len(self) + 1) * len(self)
        yield from islice(self.stream(start), self.position - start)

    def stream(self, start: int) -> Iterator[list[str]]:
        """Without end, from a batch on."""
        first, offset = divmod(start, len(self))
        for number in count(first):
            yield from self.maker.batches(number, begun=offset > 0)[offset:]
            offset = 0


class ByKey(Dataset[Trace]):
    """Traces of rounds, among them such as are not made yet."""

    def __init__(self, maker: RoundMaker) -> None:
        self.maker = maker

    def __getitem__(self, key: str) -> Trace:
        return self.maker.store[key]
