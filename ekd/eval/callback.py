"""The benchmark in the loop: the student solves held-out problems at every validation, and may be chosen by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ekd.eval.benchmark import Answered, Benchmark
from ekd.eval.statistics import mean_interval, wilson
from ekd.models.shards import whole


class BenchmarkCallback(L.Callback):
    """Logs val/accuracy with its interval, and the shares of answers that could not be read or were cut off.

    Ranks share the problems. seconds: after so long a rank begins no further batch of answers, so that nobody waits for
    a slow one for ever; one that was not finished has no accuracy (nan) and is chosen by nobody. null: no limit.
    Answers go to dirpath/step<N>-rank<r>.jsonl.
    """

    def __init__(self, *, benchmark: Benchmark, seconds: float | None, dirpath: str) -> None:
        if benchmark.split == "test":
            raise ValueError(
                "callback.benchmark.benchmark.split=test: what chooses a checkpoint must not be what judges it; use "
                "val, or a dataset with a val split (gsm8k, arithmetic, or jsonl with dataset.val)"
            )
        if seconds is not None and seconds <= 0:
            raise ValueError(f"callback.benchmark.seconds is more than 0, or null for no limit, not {seconds}")
        self.benchmark, self.seconds, self.dirpath = benchmark, seconds, Path(dirpath)

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy, ModelParallelStrategy)):
            raise ValueError(
                f"callback=benchmark needs the whole student on every rank, which {type(trainer.strategy).__name__} "
                "does not give; set trainer.strategy=ddp or fsdp2, or callback=default and evaluate the student later"
            )

    def on_validation_epoch_end(self, trainer: L.Trainer, module: Any) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        with whole(module.model):  # each rank writes answers of its own length
            answered = self._run(trainer, module)
        figures = self._reduce(trainer, module, answered.answers)
        if figures["benchmark_answered"] != 1:
            rank_zero_warn(
                f"the benchmark at step {trainer.global_step} was stopped after {self.seconds} s with "
                f"{100 * figures['benchmark_answered']:.0f}% of the answers; raise callback.benchmark.seconds, or "
                "ask fewer problems (callback.benchmark.benchmark.problems)"
            )
        for name, value in figures.items():
            module.log(f"val/{name}", value, prog_bar=name == "accuracy", batch_size=1)

    def _run(self, trainer: L.Trainer, module: Any) -> Answered:
        tokenizer = trainer.datamodule.collector.student_tokenizer  # type: ignore[attr-defined]
        rank, world = trainer.global_rank, trainer.world_size
        path = self.dirpath / f"step{trainer.global_step}-rank{rank}.jsonl"
        path.unlink(missing_ok=True)  # of a run that was stopped after it, or of another
        solve = self.benchmark.by_model(lambda: module.model, tokenizer, seconds=self.seconds)
        return self.benchmark.run(
            tokenizer,
            lambda requests, done: solve(requests[rank::world], done),
            path,
            f"step {trainer.global_step}",
            quiet=rank > 0,
            transient=True,
        )

    def _reduce(self, trainer: L.Trainer, module: L.LightningModule, answers: list[Any]) -> dict[str, float]:
        """The same figures on every rank."""
        place = {problem.id: i for i, problem in enumerate(self.benchmark.questions())}
        counts = torch.zeros(len(place), 4, dtype=torch.float64)  # answers, correct, unparseable, cut off
        for answer in answers:
            seen = [True, answer.status == "correct", answer.status == "unparseable", answer.finish == "length"]
            counts[place[answer.problem_id]] += torch.tensor(seen, dtype=torch.float64)
        total = trainer.strategy.reduce(counts.to(module.device), reduce_op="sum")
        assert isinstance(total, Tensor)
        given, correct, unparseable, cut = total.cpu().unbind(1)
        answered = float(given.sum()) / (len(place) * self.benchmark.samples)
        shares = (correct / given).tolist()
        if answered < 1:
            interval, accuracy = (float("nan"), float("nan")), float("nan")
        else:
            accuracy = sum(shares) / len(shares)
            interval = wilson(sum(shares), len(shares)) if self.benchmark.samples == 1 else mean_interval(shares)
        n = max(float(given.sum()), 1.0)
        return {
            "accuracy": accuracy,
            "accuracy_low": interval[0],
            "accuracy_high": interval[1],
            "unparseable": float(unparseable.sum()) / n,
            "truncated": float(cut.sum()) / n,
            "benchmark_answered": answered,
        }
