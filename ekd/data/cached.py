"""Cached traces as batches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from typing import Any, Protocol

import lightning as L
from filelock import FileLock
from torch.utils.data import DataLoader, Dataset, Sampler

from ekd.data.batch_sampler import Batches
from ekd.data.collate import Collate
from ekd.data.collect import Collected, Collector
from ekd.data.source import Source
from ekd.data.taught import Taught, by_teacher, entropy_histogram
from ekd.data.traces import Traces
from ekd.data.tracing import Grades
from ekd.files import acquire
from ekd.store.location import local_folder
from ekd.store.store import Store
from ekd.store.tokenizer import check_tokenizer
from ekd.types import Trace


class Samples(Protocol):
    """Which whole traces are trained on."""

    def keep(self, store: Store, keys: Sequence[str]) -> list[str]: ...  # some of the keys, in their order


class TraceData(L.LightningDataModule):
    """Collects what is missing (on one rank), then serves it.

    train_problems, val_problems: the first so many of the split, null for all. val_split: "val", or "test" where
    nothing is chosen by the validation figures. samples: which traces of the train split are kept; None: all. source:
    where training batches come from; None: those traces. max_tokens: budget of a batch, padding included. packing: all
    sequences of a batch in one row, without padding. temperature: at which the student learns. seed: of the order.
    """

    def __init__(
        self,
        *,
        collector: Collector,
        train_problems: int | None,
        val_problems: int | None,
        val_split: str,
        samples: Samples | None,
        source: Source | None = None,
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
        self.packing, self.temperature, self.samples, self.source = packing, temperature, samples, source
        self.closing = ExitStack()  # what a source holds open
        self.collected: dict[str, Collected] = {}  # filled where prepare_data ran
        self.done = 0  # micro-batches of this rank that were trained on before a resume

    def prepare_data(self) -> None:
        if self.source is not None:
            self.source.check(self)  # before a server is asked who it is
        norm_column(self.collector.origin()["temperatures"], self.temperature)  # refuse before the work
        for split, problems in self.counts.items():
            self.collector.check_count(split, problems)
        store = self.collector.open()
        alone = not self.collector.share and not self._complete(store)
        with self._lock(store) if alone else nullcontext():  # of the cells of a sweep one loads a teacher
            asks = not self._complete(store)  # by now another may have made what was missing
            with self.collector.warm() if asks else nullcontext(self.collector) as collector:
                for split, problems in self.cached.items():
                    if split not in self.collected:
                        self.collected[split] = collector.collect(split, problems)
                        self._say(split, self.collected[split].grades)
        if self.samples is not None and "train" in self.cached:
            self._keys(self.collector.open(), "train")  # scores what samples are chosen by, on this rank alone

    @property
    def reads_train(self) -> bool:
        return self.source is None or self.source.cached

    @property
    def cached(self) -> dict[str, int | None]:
        """Splits, and how many problems of each, whose traces are collected before training."""
        return {name: count for name, count in self.counts.items() if name != "train" or self.reads_train}

    def _say(self, split: str, grades: Grades) -> None:
        """What came of the tracing, where somebody wrote the texts."""
        writer = self.collector.policy.name if self.collector.policy is not None else "teacher"
        if grades.graded and (self.collector.teacher.mode != "score" or self.collector.policy is not None):
            print(grades.words(f"{writer}, {split} split"))

    def _complete(self, store: Store) -> bool:
        keys = store.keys()
        return all(keys.issuperset(self.collector.keys(split, count)) for split, count in self.cached.items())

    def _lock(self, store: Store) -> FileLock:
        try:
            return acquire(FileLock(local_folder(store.path) / ".collecting.lock"), "collects these traces")
        except OSError as error:
            raise ValueError(
                f"{store.path} lacks some of the traces and cannot be written ({error}): give data.collector.store="
                "FOLDER that you may write to, or ask for fewer problems (data.train_problems, data.val_problems)"
            ) from error

    def setup(self, stage: str) -> None:
        self.store = self.collector.open()
        check_tokenizer(self.store.origin, self.collector.student_tokenizer)

    def teardown(self, stage: str) -> None:
        self.closing.close()

    def train_dataloader(self) -> DataLoader[Trace]:
        if self.source is not None:
            return self.source.loader(self)
        traces = self.traces("train")
        return self.as_loader(traces, self.batches(traces, self.done), self.store)

    def batches(self, traces: Traces, position: int) -> Batches:
        """Of this rank, in the order of the seed, from a batch on."""
        trainer = self.trainer
        return Batches(
            traces.lengths,
            max_tokens=self.max_tokens,
            packing=self.packing,
            seed=self.seed,
            accumulate=trainer.accumulate_grad_batches if trainer else 1,
            position=position,
            rank=trainer.global_rank if trainer else 0,
            world=trainer.world_size if trainer else 1,
        )

    def val_dataloader(self) -> DataLoader[Trace]:
        """Every rank reads all of it: a mean over equal copies is the mean, and no rank waits for another."""
        traces = self.traces(self.val_split)
        batches = Batches(traces.lengths, max_tokens=self.max_tokens, packing=self.packing)
        return self.as_loader(traces, batches, self.store, temperature=1.0)

    def account(self) -> dict[str, Any]:
        """For the report: what was trained on, by its teachers, and how sure these were."""
        taught = self._taught()
        return {"trace_entropy": entropy_histogram(taught), "teachers": by_teacher(taught)}

    def _taught(self) -> list[Taught]:
        if self.source is not None:
            return self.source.seen(self)
        return [Taught(self.store, self._keys(self.store, "train"))]

    def traces(self, split: str) -> Traces:
        return Traces(self.store, self._keys(self.store, split))

    def _keys(self, store: Store, split: str) -> list[str]:
        keys = self.collector.present(split, self.counts[split])
        if not keys:
            raise ValueError(f"there is no trace of the {split} split: the teacher failed on every problem")
        return self.samples.keep(store, keys) if self.samples is not None and split == "train" else keys

    def as_loader(
        self, traces: Dataset[Trace], batches: Sampler[Any], store: Store, temperature: float | None = None
    ) -> DataLoader[Trace]:
        """temperature: at which the student looks; None: at which it learns."""
        column = norm_column(store.origin["temperatures"], self.temperature if temperature is None else temperature)
        draws = store.layout.draws > 0
        collate = Collate(store.origin["vocab"], column, packing=self.packing, draws=draws)
        return DataLoader(
            traces,
            batch_sampler=batches,
            num_workers=self.workers,
            collate_fn=collate,
            persistent_workers=self.workers > 0,
            pin_memory=self._device() == "cuda",  # so that a batch is copied while the GPU is at work
        )

    def _device(self) -> str:
        return self.trainer.strategy.root_device.type if self.trainer else "cpu"

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
