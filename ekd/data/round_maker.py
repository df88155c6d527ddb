"""Makes a round, or finds it in its store: on every rank, whatever was killed before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from types import TracebackType

import lightning as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from ekd.data.policy import Sampling
from ekd.data.rollouts import LivePolicy, figures, of_round, sampled, share_out, turn
from ekd.data.source import Serving
from ekd.data.tracing import scoring
from ekd.engine.crew import batches_of
from ekd.files import replace as write_file
from ekd.models.load import end_ids
from ekd.models.shards import whole
from ekd.store.location import Location, location
from ekd.types import Request

LOG = "rounds.jsonl"  # in the run's folder: one line a round


@dataclass(frozen=True, kw_only=True)
class RoundPlan:
    """problems_per_round, samples: a round's texts are so many problems times so many each. steps_per_round: optimizer
    steps that learn from them, each text once; 1 is strictly on-policy. staleness: 1 writes a round's texts with the
    weights that began the round before, so that the teacher reads while the student learns. sampling: how the student
    writes. stop_repeats: a text that was cut off while it repeated itself is cut before it does. store: a folder; None:
    one in the run's.
    """

    problems_per_round: int
    samples: int
    steps_per_round: int
    staleness: int
    sampling: Sampling
    stop_repeats: bool
    store: str | None

    def __post_init__(self) -> None:
        for name in ("problems_per_round", "samples", "steps_per_round"):
            if vars(self)[name] < 1:
                raise ValueError(f"source.{name} is 1 or more, not {vars(self)[name]}")
        if self.staleness not in (0, 1):
            raise ValueError(f"source.staleness is 0 or 1 round, not {self.staleness}")
        if self.samples > 1 and self.sampling.temperature == 0:
            raise ValueError(
                f"source.samples={self.samples} at temperature 0 are {self.samples} equal texts: set "
                "source.sampling.temperature=1, or source.samples=1"
            )

    def folder(self, trainer: L.Trainer) -> Location:
        return location(self.store or Path(trainer.default_root_dir) / "rounds")


class RoundMaker:
    """Of one process. run: a digest of what decides the weights that write."""

    def __init__(self, rounds: RoundPlan, data: Serving, trainer: L.Trainer, run: str) -> None:
        self.rounds, self.data, self.trainer, self.run = rounds, data, trainer, run
        self.per_rank = rounds.steps_per_round * trainer.accumulate_grad_batches  # batches of a round
        asked = data.collector.requests("train", data.counts["train"], texts=False)
        self.asked = [request for request in asked if request.sample == 0]
        self.folder = Path(trainer.default_root_dir)
        student = trainer.lightning_module
        self.policy = LivePolicy(
            student=student,  # type: ignore[arg-type]
            end=end_ids(student.model, data.collector.student_tokenizer),  # type: ignore[arg-type]
            sampling=rounds.sampling,
            stop_repeats=rounds.stop_repeats,
            context=trainer.precision_plugin.forward_context,
        )
        teacher = scoring(data.collector.teacher, "source=rounds")
        self.stack = ExitStack()
        reader = replace(data.collector, teacher=teacher, policy=self.policy, store=str(rounds.folder(trainer)))
        self.collector = self.stack.enter_context(reader.warm())
        self.store = self.collector.open()
        self.reading: dict[int, Future[None]] = {}  # rounds that the teacher reads while the student learns
        self.pool = self.stack.enter_context(ThreadPoolExecutor(1))
        self.seconds = {"writing": 0.0, "reading": 0.0}

    def __enter__(self) -> RoundMaker:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stack.close()

    def batches(self, number: int, *, begun: bool) -> list[list[str]]:
        """This rank's batches of a round, as keys. begun: some of it is learnt already, so it is there."""
        ahead = self.rounds.staleness > 0
        if number not in self.reading:
            self._write(number, begun=begun)
            self._read(number)
        else:
            self.reading.pop(number).result()
        if ahead and (number + 1) * self.rounds.steps_per_round != self.trainer.max_steps:
            self._write(number + 1, begun=begun)
            self.reading[number + 1] = self.pool.submit(self._read, number + 1)
        self.trainer.strategy.barrier(f"round {number}")
        return self._share(number)

    def requests(self, number: int) -> list[Request]:
        """All of a round, on every rank: its problems, `samples` times each."""
        chosen = turn(len(self.asked), self.rounds.problems_per_round, number, self.data.seed)
        some = sampled([self.asked[i] for i in chosen], self.rounds.samples)
        return of_round(some, number, self.data.seed, self.run)

    def _mine(self, number: int) -> list[Request]:
        """Whole batches of texts, so that neither the number of ranks nor a kill changes the company of a text."""
        batches = batches_of(self.requests(number), self.policy.batch_size)
        return [r for batch in batches[self.trainer.global_rank :: self.trainer.world_size] for r in batch]

    def _write(self, number: int, *, begun: bool) -> None:
        """Texts that are neither stored nor kept."""
        began, mine = monotonic(), self._mine(number)
        self.policy.number = number
        if begun and self.collector.unwritten(mine):
            raise ValueError(
                f"texts of round {number} are gone from {self.store.path}, and the weights that wrote them, too: go on "
                "from an older checkpoint (ckpt=), or start anew"
            )
        with whole(self.policy.student.model):  # each rank writes texts of its own length
            self.collector.write(mine)
        self.seconds["writing"] = monotonic() - began

    def _read(self, number: int) -> None:
        began = monotonic()
        failures = self.collector.read(self._mine(number))
        self.seconds["reading"] = monotonic() - began
        for failure in failures[:3]:
            rank_zero_warn(f"round {number}: the teacher failed on problem {failure.problem_id}: {failure.reason}")

    def _share(self, number: int) -> list[list[str]]:
        world, rank = self.trainer.world_size, self.trainer.global_rank
        present = self.store.keys()
        keys = [r.key for r in self.requests(number) if r.key in present]
        slots = self.per_rank * world
        if len(keys) < slots:
            raise ValueError(
                f"round {number} has {len(keys)} texts for {slots} batches (source.steps_per_round x "
                "trainer.accumulate_grad_batches x ranks): raise source.problems_per_round or source.samples"
                + (
                    ""
                    if len(keys) == len(self.requests(number))
                    else "; the same command asks for the failed ones again"
                )
            )
        lengths = self.store.lengths()
        sizes = [sum(lengths[key]) for key in keys]
        batches, left = share_out(sizes, slots, self.data.max_tokens, packing=self.data.packing)
        if rank == 0:
            self._log(number, keys, len(left))
        order = np.random.default_rng([self.data.seed, number]).permutation(slots)
        return [[keys[i] for i in sorted(batches[slot])] for slot in order[rank::world]]

    def _log(self, number: int, keys: Sequence[str], left: int) -> None:
        """What there is to say of a round, in the run's folder and with its loggers."""
        if left:
            rank_zero_warn(
                f"{left} of {len(keys)} texts of round {number} have no room in its batches of data.max_tokens="
                f"{self.data.max_tokens}: raise it, source.steps_per_round or trainer.accumulate_grad_batches"
            )
        said = figures([self.store[key] for key in keys])._asdict()
        stale = min(self.rounds.staleness, number)
        line = {"round": number, "step": self.trainer.global_step, **said, "left_out": left, "staleness": stale}
        line |= {f"seconds_{name}": round(value, 2) for name, value in self.seconds.items()}
        path = self.folder / LOG
        known = [json.loads(one) for one in path.read_text().splitlines()] if path.exists() else []
        lines = [*(one for one in known if one["round"] < number), line]
        write_file(path, "".join(json.dumps(one) + "\n" for one in lines).encode())
        for logger in self.trainer.loggers:
            logger.log_metrics(
                {f"rounds/{name}": float(value) for name, value in line.items()}, self.trainer.global_step
            )
