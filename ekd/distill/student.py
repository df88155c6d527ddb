"""The student: score its rows, select, pay. It knows signals, selectors and losses only by their protocols."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torchmetrics import MeanMetric
from transformers import PreTrainedModel

from ekd.distill.diagnostics import Diagnostics
from ekd.distill.guard import check_kl, check_step, gradient_norm
from ekd.distill.hard_label import HardLabel
from ekd.distill.schedule import set_rate
from ekd.distill.settings import Build, Objective, Pace
from ekd.distill.tally import count_batch
from ekd.models.chance import reseed
from ekd.models.checkpoint import about_checkpoint, restore
from ekd.models.head import Head, check_head, distill, head_of
from ekd.models.load import check_borders
from ekd.models.reader import agreement, divergence, matched_with_student, response_hidden, with_student
from ekd.models.rows import at_temperature, matched, spans_to_price, top_of, where
from ekd.models.shards import is_sharded, rest, unsharded
from ekd.models.spec import ModelSpec
from ekd.types import Batch, Learns, Loss, Reviews, Rows, Selector, Signal


class Student(L.LightningModule):
    """conf/ spells the nouns key by key: see `ekd.distill.make_student`."""

    supervised: Tensor
    offered: Tensor

    def __init__(
        self,
        *,
        spec: ModelSpec,
        build: Build,
        objective: Objective,
        pace: Pace,
        signal: Signal,
        selector: Selector,
        loss: Loss,
        gate: HardLabel | None,
    ) -> None:
        super().__init__()
        build.check_quantize(spec.quantize)
        objective.check_gate(gate is not None)
        self.spec, self.build, self.objective, self.pace = spec, build, objective, pace
        # Of which weights; kept in checkpoints.
        self.start = None if build.start is None else about_checkpoint(Path(build.start))
        self.strict_loading = build.lora is None  # else checkpoints hold the adapters alone
        self.signal, self.selector, self.loss, self.gate = signal, selector, loss, gate
        self.looks = any(one.needs_student for one in self.signals)  # at the student, to score a row
        self.model: PreTrainedModel | None = None
        # `count_batch` of this rank since the last step. No buffer: DDP would overwrite it
        self.tally = torch.zeros(6)
        self.register_buffer("supervised", torch.zeros((), dtype=torch.long))  # rows paid for so far, on all ranks ...
        self.register_buffer("offered", torch.zeros((), dtype=torch.long))  # ... of so many response rows
        self.unreviewed: list[tuple[Reviews, Batch]] = []
        self.speed = {"tokens": 0, "seconds": 0.0}
        self.before: dict[str, float] = {}  # what validation found of the untrained student; kept in checkpoints
        self.minutes = 0.0  # of earlier parts of this run
        self.diagnostics = Diagnostics(spec.model, spec.trust_remote_code)
        # by default a mean leaves out what is no number, and a lost student would look like a short validation
        means = {name: MeanMetric(nan_strategy="disable") for name in ("kl", "agreement", "ce", "entropy")}
        self.val_metrics = torch.nn.ModuleDict(means)

    def load(self) -> PreTrainedModel:
        """The untrained student."""
        return replace(self.spec, quantize=None).load()

    def skeleton(self, dtype: str | None = None) -> PreTrainedModel:
        """The student without weights, for a memory plan; dtype: another than its own."""
        if self.spec.quantize:
            raise ValueError("plan=true does not know the size of quantised weights: set student.quantize=null")
        model = replace(self.spec, dtype=dtype or self.spec.dtype).skeleton()
        self.build.attach(model)
        self.build.set_training(model)
        return model

    def origin(self) -> dict[str, Any]:
        return {"type": "student", **self.spec.identity(), "layers": self.spec.layers, "dtype": self.spec.dtype}

    def configure_model(self) -> None:
        if self.model is not None:
            return
        self.model = self.spec.load()
        check_head(self.model)
        self.build.attach(self.model)
        if self.start is not None:
            restore(self.model, Path(self.start["file"]), self.spec.model, partly=self.build.lora is not None)
        self.build.set_training(self.model)
        self.decode, self.shares = self.build.decoder(self.model, self.device_mesh)

    def on_fit_start(self) -> None:
        self.began = monotonic()
        self.stream = torch.initial_seed()  # the run's seed
        self.bordered = False  # whether a model that has to see borders within a row was found to see them

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        past = checkpoint["past"]
        self.before, self.speed, self.minutes = past["before"], past["speed"], past["minutes"]
        self.start = past["start"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What was found so far; and what is frozen is not written a hundred times."""
        minutes = self.minutes + (monotonic() - self.began) / 60
        past = {"before": self.before, "speed": dict(self.speed), "minutes": minutes, "start": self.start}
        checkpoint["past"] = past
        checkpoint["state_dict"] = self.build.to_keep(self, checkpoint["state_dict"])

    def save(self, folder: Path) -> None:
        """The student as plain transformers loads it."""
        assert self.model is not None
        self.build.save(self.model, self.load, folder)

    def gather(self) -> bool:
        """After training, on every rank: shards are made whole on the first, gone on others. -> is this the first"""
        here = self.trainer.is_global_zero
        if self.model is not None and is_sharded(self.model):
            self.model = unsharded(self.model, self.skeleton, here=here)
        return here

    def hidden(self, batch: Batch) -> Tensor:
        """(R, H): the decoder alone, so that no logits are built, and only the rows that predict a response token."""
        assert self.model is not None
        return response_hidden(self.decode, batch, share=self.shares)

    def on_train_batch_start(self, batch: Batch, _: int) -> None:
        if not self.bordered and self._packed(batch):
            with self.trainer.precision_plugin.forward_context():
                check_borders(self.model, self.decode, self.spec.attention)  # type: ignore[arg-type]
            rest(self.model)
            self.bordered = True
        reseed(self.stream, self.trainer.fit_loop.total_batch_idx)  # dropout goes on as if nothing had been
        self._began = monotonic()

    def _packed(self, batch: Batch) -> bool:
        """Whether a row holds several sequences; in shards, whether one of any rank does: no rank reads alone."""
        packed = len(batch.rows.teachers) > len(batch.input_ids)
        return self.trainer.strategy.reduce_boolean_decision(packed, all=False) if is_sharded(self.model) else packed

    def training_step(self, batch: Batch, _: int) -> Tensor:
        assert self.model is not None
        hidden, head, rows = self.hidden(batch), head_of(self.model), batch.rows
        weight, scored = self.weigh(hidden, head, rows)
        keep = where(weight > 0)
        total, price = distill(
            hidden[keep],
            head,
            rows.teacher_ids[keep],
            at_temperature(rows, self.objective.temperature)[keep],
            weight[keep],
            self.loss,
            unmatched=~rows.valid[keep],
            span=spans_to_price(rows, self.loss, keep),
            **self.objective.terms | self._alpha(scored, rows.valid, keep),
        )
        self.tally = self.tally.to(weight.device) + count_batch(self.selector, total.detach(), weight, rows)
        for part in (self.signal, self.selector):
            if isinstance(part, Learns):
                # of all rows, chosen or not: a part that learns sees the rows that it scored, in their order
                prices = torch.zeros_like(weight).index_copy(0, keep, price.to(weight.dtype))
                part.learn(scored, weight[rows.valid], prices[rows.valid])
            if isinstance(part, Reviews):
                self.unreviewed.append((part, batch))
        return total

    def on_train_batch_end(self, outputs: Any, batch: Batch, _: int) -> None:
        """Response tokens a second, selected or not, over the whole step: forward, backward, optimizer."""
        elapsed = monotonic() - self._began
        tokens = len(batch.rows.valid) * self.trainer.world_size  # ranks have batches of one budget
        self.speed["tokens"] += tokens
        self.speed["seconds"] += elapsed
        self.log("train/tokens_per_second", tokens / elapsed, batch_size=1)
        if self.pace.is_over(self.supervised):
            self.trainer.should_stop = True

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if self.pace.supervised_tokens is None:  # else `set_rate` has done it
            scheduler.step()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Rewards are given before any callback sees the step, so that a checkpoint holds them."""
        super().optimizer_step(*args, **kwargs)
        self.zero_grad(set_to_none=True)  # Lightning would keep the gradients through the next forward pass
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            for part, batch in self.unreviewed:
                part.review(self._seen(self.hidden(batch), head_of(self.model), batch.rows))  # type: ignore[arg-type]
            rest(self.model)
        self.unreviewed.clear()

    @torch.no_grad()
    def weigh(self, hidden: Tensor, head: Head, rows: Rows) -> tuple[Tensor, Rows]:
        """-> weight (R,), and the rows that were scored: those with a teacher. Others are in no percentile."""
        scored = self._seen(hidden, head, rows) if self.looks else matched(rows)
        # also with no rows at all: on several ranks both may wait for the others
        weight = self.selector(self.signal(scored), scored.sequence).float()
        if len(weight) < len(rows.valid):
            weight = torch.zeros(len(rows.valid), device=hidden.device).masked_scatter(rows.valid, weight)
        if self.objective.unmatched != "none":
            weight = torch.where(~rows.valid & (rows.end | (self.objective.unmatched == "all")), 1.0, weight)
        return weight, scored

    @property
    def signals(self) -> list[Signal]:
        """All that score a row."""
        return [self.signal, *([] if self.gate is None else [self.gate.signal])]

    @property
    def sight(self) -> dict[str, Any]:
        """How the head is read for them: see `ekd.models.head.stats`."""
        return {"budget_mb": self.objective.head_mb, "top": top_of(*self.signals)}

    @torch.no_grad()
    def _alpha(self, scored: Rows, valid: Tensor, keep: Tensor) -> dict[str, Tensor]:
        """alpha_ce of each kept row, where a gate says so."""
        if self.gate is None:
            return {}
        share = torch.zeros(len(valid), device=valid.device)
        share[valid] = self.gate(scored).to(share.dtype)
        return {"alpha_ce": share[keep]}

    def _seen(self, hidden: Tensor, head: Head, rows: Rows) -> Rows:
        """The rows that have a teacher distribution, with what the student thinks there."""
        return matched_with_student(hidden, head, rows, **self.sight)

    def on_before_optimizer_step(self, _: torch.optim.Optimizer) -> None:
        """The one place of reduction: gradients of a sum become those of a mean over all weight that was paid for, or
        over all rows where weights are importance weights (see `count_batch`).

        Lightning averages over accumulated micro-batches and ranks; that is undone and the true total divided by.
        """
        tally = self.trainer.strategy.reduce(self.tally.to(self.device), reduce_op="sum")
        assert isinstance(tally, Tensor)
        whole, price, supervised, offered, chosen, valid = tally.unbind()
        # where no row was chosen on any rank, gradients are 0 and stay 0; the step is made, on all ranks
        loss = price / whole.clamp_min(1e-12)
        factor = self.trainer.accumulate_grad_batches * self.trainer.world_size / whole.clamp_min(1e-12)
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor.to(parameter.grad.dtype))
        norm = gradient_norm(self.parameters())
        check_step(self.trainer, loss, norm, self.pace.grad_limit)
        if self.pace.supervised_tokens is not None:  # the rate in the middle of the tokens that this step learns from
            set_rate(self.lr_schedulers(), int(self.supervised) + int(supervised) // 2)
        # before the step is taken: whoever stops or saves after it counts its tokens, too
        self.supervised += supervised.long()
        self.offered += offered.long()
        self.log("train/loss", loss, prog_bar=True, batch_size=1)
        self.log("train/gradient_norm", norm, batch_size=1)
        self.log("train/selected", chosen / valid.clamp_min(1), batch_size=1)
        self.log("train/supervised_tokens", self.supervised.float(), batch_size=1)
        self.tally = torch.zeros_like(tally)

    def validation_step(self, batch: Batch, _: int) -> None:
        """Every response row, whatever the selector, at temperature 1: comparable across a sweep."""
        assert self.model is not None
        rows = with_student(self.hidden(batch), head_of(self.model), batch.rows, **self.sight)
        assert rows.student is not None
        known = matched(rows)
        values = {
            "kl": divergence(known),
            "agreement": agreement(known).float(),
            "entropy": rows.student.entropy,
            "ce": -rows.student.log_q[:, 0],
        }
        for name, value in values.items():
            metric = self.val_metrics[name]
            assert isinstance(metric, MeanMetric)
            metric.update(value)
            self.log(f"val/{name}", metric, on_epoch=True, prog_bar=name == "kl", batch_size=1)
        if len(known.valid):
            self.diagnostics.update(known, values["kl"], self.signal, self.selector)

    def on_validation_epoch_end(self) -> None:
        kl = self.val_metrics["kl"]
        assert isinstance(kl, MeanMetric)
        if kl.weight > 0:  # else no row has a teacher, and there is nothing to measure
            check_kl(self.trainer, float(kl.compute()))
        self.log_dict(self.diagnostics.compute(), sync_dist=True)
        rest(self.model)

    def configure_optimizers(self) -> Any:
        assert self.model is not None
        if self.model.dtype != torch.float32:
            rank_zero_warn(
                f"student.dtype={self.spec.dtype}: steps below 1/256 of a weight are rounded away; keep float32 "
                "weights and set trainer.precision=bf16-mixed for speed"
            )
        learned = [p for p in self.model.parameters() if p.requires_grad]
        return self.pace.optimizers(learned, self.trainer.estimated_stepping_batches)
