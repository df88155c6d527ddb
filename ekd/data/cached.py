"""Cached traces as batches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import lightning as L
import numpy as np
from filelock import FileLock
from torch.utils.data import DataLoader, Dataset

from ekd.data.batch_sampler import Batches
from ekd.data.collate import Collate
from ekd.data.collect import Collected, Collector
from ekd.files import acquire
from ekd.store.store import Store
from ekd.store.tokenizer import check_tokenizer
from ekd.types import Trace

HISTOGRAM = 1000  # traces; more would not show another picture


class Samples(Protocol):
    """Which whole traces are trained on."""

    def keep(self, store: Store, keys: Sequence[str]) -> list[str]: ...  # some of the keys, in their order


class TraceData(L.LightningDataModule):
    """Collects what is missing (on one rank), then serves it.

    train_problems, val_problems: the first so many of the split, null for all. val_split: "val", or "test" where
    nothing is chosen by the validation figures. samples: which traces of the train split are
    kept; None: all. max_tokens: budget of a batch, padding included. packing: all sequences of a batch in one row,
    without padding. temperature: at which the student learns. seed: of the order.
    """

    def __init__(
        self,
        *,
        collector: Collector,
        train_problems: int | None,
        val_problems: int | None,
        val_split: str,
        samples: Samples | None,
        max_tokens: int,
        packing: bool,
        temperature: float,
        seed: int,
        workers: int,
    ) -> None:
        super().__init__()
        if max_tokens < 1:
            raise ValueError(f"data.max_tokens (tokens of a batch, padding included) is 1 or more, not {max_tokens}")
        if workers < 0:
            raise ValueError(f"data.workers (loader processes) is 0 or more, not {workers}")
        if val_split not in ("val", "test"):
            raise ValueError(f"data.val_split is val or test, not {val_split!r}")
        self.collector = collector
        self.counts = {"train": train_problems, val_split: val_problems}
        self.val_split, self.max_tokens, self.seed, self.workers = val_split, max_tokens, seed, workers
        self.packing, self.temperature, self.samples = packing, temperature, samples
        self.collected: dict[str, Collected] = {}  # filled where prepare_data ran
        self.done = 0  # micro-batches of this rank that were trained on before a resume

    def prepare_data(self) -> None:
        norm_column(self.collector.origin()["temperatures"], self.temperature)  # refuse before the work
        for split, problems in self.counts.items():
            self.collector.check_count(split, problems)
        store = self.collector.open()
        lock = nullcontext() if self._complete(store) else self._lock(store)
        with lock:  # cells of a sweep trace once; where nothing is missing, nothing is written
            for split, problems in self.counts.items():
                if split not in self.collected:
                    self.collected[split] = self.collector.collect(split, problems)
        if self.samples is not None:
            self._keys(self.collector.open(), "train")  # scores what samples are chosen by, on this rank alone

    def _complete(self, store: Store) -> bool:
        keys = store.keys()
        return all(r.key in keys for split, count in self.counts.items() for r in self.collector.requests(split, count))

    def _lock(self, store: Store) -> FileLock:
        try:
            return acquire(FileLock(store.path / ".collecting.lock"), "collects these traces")
        except OSError as error:
            raise ValueError(
                f"{store.path} lacks some of the traces and cannot be written ({error}): give data.collector.store="
                "FOLDER that you may write to, or ask for fewer problems (data.train_problems, data.val_problems)"
            ) from error

    def setup(self, stage: str) -> None:
        self.store = self.collector.open()
        check_tokenizer(self.store.origin, self.collector.student_tokenizer)

    def train_dataloader(self) -> DataLoader[Trace]:
        traces = self._traces("train")
        trainer = self.trainer
        batches = Batches(
            traces.lengths,
            max_tokens=self.max_tokens,
            packing=self.packing,
            seed=self.seed,
            accumulate=trainer.accumulate_grad_batches if trainer else 1,
            position=self.done,
            rank=trainer.global_rank if trainer else 0,
            world=trainer.world_size if trainer else 1,
        )
        return self._loader(traces, batches, self.temperature)

    def val_dataloader(self) -> DataLoader[Trace]:
        """Every rank reads all of it: a mean over equal copies is the mean, and no rank waits for another."""
        traces = self._traces(self.val_split)
        batches = Batches(traces.lengths, max_tokens=self.max_tokens, packing=self.packing)
        return self._loader(traces, batches, temperature=1.0)

    def entropy_histogram(self) -> dict[str, list[float]]:
        """Of the teacher's entropy (nats) over the rows that are trained on, of the first HISTOGRAM traces."""
        traces = self._traces("train")
        rows = [traces[i] for i in range(min(len(traces), HISTOGRAM))]
        counts, edges = np.histogram(np.concatenate([t.entropy[t.valid] for t in rows]).astype(np.float64), bins=50)
        return {"edges": edges.tolist(), "counts": counts.tolist()}

    def _traces(self, split: str) -> Traces:
        return Traces(self.store, self._keys(self.store, split))

    def _keys(self, store: Store, split: str) -> list[str]:
        keys = self.collector.present(split, self.counts[split])
        if not keys:
            raise ValueError(f"there is no trace of the {split} split: the teacher failed on every problem")
        return self.samples.keep(store, keys) if self.samples is not None and split == "train" else keys

    def _loader(self, traces: Traces, batches: Batches, temperature: float) -> DataLoader[Trace]:
        column = norm_column(self.store.origin["temperatures"], temperature)
        draws = self.store.layout.draws > 0
        collate = Collate(self.store.origin["vocab"], column, packing=self.packing, draws=draws)
        return DataLoader(
            traces,
            batch_sampler=batches,
            num_workers=self.workers,
            collate_fn=collate,
            persistent_workers=self.workers > 0,
        )

    def state_dict(self) -> dict[str, Any]:
        assert self.trainer is not None
        return {"done": self.trainer.fit_loop.epoch_loop.batch_progress.total.processed}  # type: ignore[attr-defined]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.done = state_dict["done"]


def norm_column(known: Sequence[float], temperature: float) -> int | None:
    """Which column of `Trace.log_norm` belongs to a temperature; None at 1, where nothing is needed."""
    if temperature == 1:
        return None
    if temperature not in known:
        raise ValueError(
            f"temperature {temperature}: a trace made at 1 with a few ids does not know the tail at another, and these "
            f"know it at {[1.0, *known]}; trace with teacher.temperatures=[{temperature}] (teacher=hf), or set "
            "student.temperature=1"
        )
    return list(known).index(temperature)


class Traces(Dataset[Trace]):
    """Found by key, never by order."""

    def __init__(self, store: Store, keys: Sequence[str]) -> None:
        self.store, self.keys = store, list(keys)
        lengths = store.lengths()
        self.lengths = [sum(lengths[key]) for key in self.keys]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Trace:
        return self.store[self.keys[index]]
