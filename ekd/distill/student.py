"""The student: score its rows, select, pay. It knows signals, selectors and losses only by their protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
from ekd.distill.schedule import set_rate, spread
from ekd.models.checkpoint import about, restore
from ekd.models.head import TAILS, Head, check_head, distill, head_of
from ekd.models.load import check_borders
from ekd.models.lora import Lora
from ekd.models.reader import agreement, divergence, matched_with_student, response_hidden, with_student
from ekd.models.rows import at_temperature, matched, where
from ekd.models.spec import ModelSpec
from ekd.types import Batch, Importance, Learns, Loss, Reviews, Rows, Selector, Signal

UNMATCHED = ("end", "all", "none")


class Student(L.LightningModule):
    """model, layers, dtype, attention, quantize, trust_remote_code: see `ekd.models.spec.ModelSpec`. lora: train
    low-rank adapters only. compile: the decoder through torch.compile. optimizer: parameters -> optimizer.

    start: a checkpoint whose weights replace the model's.

    schedule, warmup: a name of transformers' `get_scheduler`, and the share of the steps it rises. supervised_tokens:
    the run ends after learning from so many, and the schedule runs over them; None: over the steps. grad_limit: a
    longer gradient, before it is clipped, stops the run; None: only one that is not finite. temperature,
    alpha_ce, tail, head_mb: see `ekd.models.head.distill`. unmatched: which rows without a teacher distribution are
    priced by cross entropy: end (the end token, so that the student learns to stop), all or none.
    """

    supervised: Tensor
    offered: Tensor

    def __init__(
        self,
        *,
        model: str,
        layers: Sequence[int] | str,
        dtype: str,
        attention: str,
        quantize: str | None,
        lora: Lora | None,
        gradient_checkpointing: bool,
        compile: bool,
        start: str | None,
        trust_remote_code: bool,
        signal: Signal,
        selector: Selector,
        loss: Loss,
        temperature: float,
        alpha_ce: float,
        tail: str,
        unmatched: str,
        head_mb: float,
        optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer],
        schedule: str,
        warmup: float,
        supervised_tokens: int | None,
        grad_limit: float | None,
    ) -> None:
        super().__init__()
        check_values(temperature, alpha_ce, tail, unmatched, warmup, supervised_tokens, grad_limit)
        if quantize and lora is None:
            raise ValueError(
                f"student.quantize={quantize} freezes the weights, so something else has to learn: student=qlora"
            )
        self.spec = ModelSpec(
            model=model,
            layers=layers,
            dtype=dtype,
            attention=attention,
            quantize=quantize,
            device="cpu",  # Lightning moves it
            trust_remote_code=trust_remote_code,
        )
        self.lora, self.gradient_checkpointing, self.compiling = lora, gradient_checkpointing, compile
        self.start = None if start is None else about(Path(start))  # of which weights; kept in checkpoints
        self.strict_loading = lora is None  # else checkpoints hold the adapters alone
        self.signal, self.selector, self.loss = signal, selector, loss
        self.pricing = dict[str, Any](temperature=temperature, alpha_ce=alpha_ce, tail=tail, budget_mb=head_mb)
        self.unmatched, self.optimizer, self.schedule, self.warmup = unmatched, optimizer, schedule, warmup
        self.supervised_tokens, self.grad_limit = supervised_tokens, grad_limit
        self.model: PreTrainedModel | None = None
        self.tally = torch.zeros(6)  # of this rank since the last step; see `_count`. No buffer: DDP would overwrite it
        self.register_buffer("supervised", torch.zeros((), dtype=torch.long))  # rows paid for so far, on all ranks ...
        self.register_buffer("offered", torch.zeros((), dtype=torch.long))  # ... of so many response rows
        self.unreviewed: list[tuple[Reviews, Batch]] = []
        self.speed = {"tokens": 0, "seconds": 0.0}
        self.before: dict[str, float] = {}  # what validation found of the untrained student; kept in checkpoints
        self.minutes = 0.0  # of earlier parts of this run
        self.diagnostics = Diagnostics(model, trust_remote_code)
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
        if self.lora is not None:
            self.lora.attach(model)
        model.train()
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return model

    def check_budget(self, max_steps: int) -> None:
        """Before any work: a run has one end."""
        if self.supervised_tokens is not None and max_steps != -1:
            raise ValueError(
                f"two budgets, student.supervised_tokens={self.supervised_tokens} and trainer.max_steps={max_steps}: "
                "leave trainer.max_steps out with budget=tokens, or use budget=steps"
            )

    def origin(self) -> dict[str, Any]:
        return {
            "type": "student",
            **self.spec.identity(),
            "layers": self.spec.layers,
            "dtype": self.spec.dtype,
        }

    def configure_model(self) -> None:
        if self.model is not None:
            return
        self.model = self.spec.load()
        check_head(self.model)
        if self.lora is not None:
            self.lora.attach(self.model)
        if self.start is not None:
            restore(self.model, Path(self.start["file"]), self.spec.model, partly=self.lora is not None)
        self.model.train()
        if self.gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        decoder = self.model.get_decoder()
        # methods, not modules: a second name for the decoder would write its weights twice into a checkpoint
        self.decode = torch.compile(decoder.forward) if self.compiling else decoder.__call__

    def on_fit_start(self) -> None:
        self.began = monotonic()
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
        if self.lora is not None:
            learned = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
            weights = checkpoint["state_dict"].items()
            checkpoint["state_dict"] = {k: v for k, v in weights if k in learned or not k.startswith("model.")}

    def save(self, folder: Path) -> None:
        """The student as plain transformers loads it. Adapters are kept beside (`folder`/adapter) and merged in."""
        assert self.model is not None
        if self.lora is None:
            self.model.save_pretrained(folder)
        else:
            self.model.save_pretrained(folder / "adapter")
            self.lora.merge(self.load(), folder / "adapter").save_pretrained(folder)

    def hidden(self, batch: Batch) -> Tensor:
        """(R, H): the decoder alone, so that no logits are built, and only the rows that predict a response token."""
        assert self.model is not None
        return response_hidden(self.decode, batch)

    def on_train_batch_start(self, batch: Batch, _: int) -> None:
        if not self.bordered and int((batch.position_ids == 0).sum()) > len(batch.position_ids):  # a packed row
            with self.trainer.precision_plugin.forward_context():
                check_borders(self.model, self.spec.attention)  # type: ignore[arg-type]
            self.bordered = True
        self._began = monotonic()

    def training_step(self, batch: Batch, _: int) -> Tensor:
        assert self.model is not None
        hidden, head, rows = self.hidden(batch), head_of(self.model), batch.rows
        weight, scored = self.weigh(hidden, head, rows)
        keep = where(weight > 0)
        total, price = distill(
            hidden[keep],
            head,
            rows.teacher_ids[keep],
            at_temperature(rows, self.pricing["temperature"])[keep],
            weight[keep],
            self.loss,
            unmatched=~rows.valid[keep],
            **self.pricing,
        )
        self.tally = self.tally.to(weight.device) + self._count(total.detach(), weight, rows)
        for part in (self.signal, self.selector):
            if isinstance(part, Learns):
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
        if self.supervised_tokens is not None and int(self.supervised) >= self.supervised_tokens:
            self.trainer.should_stop = True

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if self.supervised_tokens is None:  # else `set_rate` has done it
            scheduler.step()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Rewards are given before any callback sees the step, so that a checkpoint holds them."""
        super().optimizer_step(*args, **kwargs)
        self.zero_grad(set_to_none=True)  # Lightning would keep the gradients through the next forward pass
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            for part, batch in self.unreviewed:
                part.review(self._seen(self.hidden(batch), head_of(self.model), batch.rows))  # type: ignore[arg-type]
        self.unreviewed.clear()

    @torch.no_grad()
    def weigh(self, hidden: Tensor, head: Head, rows: Rows) -> tuple[Tensor, Rows]:
        """-> weight (R,), and the rows that were scored: those with a teacher. Others are in no percentile."""
        weight = torch.zeros(len(rows.valid), device=hidden.device)
        scored = self._seen(hidden, head, rows) if self.signal.needs_student else matched(rows)
        # also with no rows at all: on several ranks both may wait for the others
        weight[rows.valid] = self.selector(self.signal(scored), scored.sequence).to(weight.dtype)
        if self.unmatched != "none":
            weight[~rows.valid & (rows.end | (self.unmatched == "all"))] = 1.0
        return weight, scored

    def _seen(self, hidden: Tensor, head: Head, rows: Rows) -> Rows:
        """The rows that have a teacher distribution, with what the student thinks there."""
        return matched_with_student(hidden, head, rows, budget_mb=self.pricing["budget_mb"])

    def on_before_optimizer_step(self, _: torch.optim.Optimizer) -> None:
        """The one place of reduction: gradients of a sum become those of a mean over all weight that was paid for, or
        over all rows where weights are importance weights (see `_count`).

        Lightning averages over accumulated micro-batches and ranks; that is undone and the true total divided by.
        """
        tally = self.trainer.strategy.reduce(self.tally.to(self.device), reduce_op="sum")
        assert isinstance(tally, Tensor)
        whole, price, supervised, offered, chosen, valid = tally.unbind()
        loss = price / whole.clamp_min(1e-12)
        factor = self.trainer.accumulate_grad_batches * self.trainer.world_size / whole.clamp_min(1e-12)
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor.to(parameter.grad.dtype))
        norm = gradient_norm(self.parameters())
        check_step(self.trainer, float(loss), float(norm), self.grad_limit)
        if self.supervised_tokens is not None:  # the rate in the middle of the tokens that this step learns from
            set_rate(self.lr_schedulers(), int(self.supervised) + int(supervised) // 2)
        self.supervised += supervised.long()
        self.offered += offered.long()
        self.log("train/loss", loss, prog_bar=True, batch_size=1)
        self.log("train/gradient_norm", norm, batch_size=1)
        self.log("train/selected", chosen / valid.clamp_min(1), batch_size=1)
        self.log("train/supervised_tokens", self.supervised.float(), batch_size=1)
        self.tally = torch.zeros_like(tally)

    def _count(self, total: Tensor, weight: Tensor, rows: Rows) -> Tensor:
        """(6,) of one micro-batch: what divides, price, rows supervised, rows offered; of the valid those chosen, and
        all. The weight that was paid for divides, unless the selector's are importance weights: these make a *sum*
        right on average, so its own number of rows divides, and each scored row stands for one.
        """
        paid = weight > 0
        whole = weight
        if isinstance(self.selector, Importance) and self.selector.importance:
            whole = torch.where(rows.valid, 1.0, weight)
        counts = [paid.sum(), torch.tensor(len(paid), device=paid.device), (paid & rows.valid).sum(), rows.valid.sum()]
        return torch.stack([whole.sum(), total.to(weight.dtype), *(count.to(weight.dtype) for count in counts)])

    def validation_step(self, batch: Batch, _: int) -> None:
        """Every response row, whatever the selector, at temperature 1: comparable across a sweep."""
        assert self.model is not None
        budget = self.pricing["budget_mb"]
        rows = with_student(self.hidden(batch), head_of(self.model), batch.rows, budget_mb=budget)
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

    def configure_optimizers(self) -> Any:
        assert self.model is not None
        if self.model.dtype != torch.float32:
            rank_zero_warn(
                f"student.dtype={self.spec.dtype}: steps below 1/256 of a weight are rounded away; keep float32 "
                "weights and set trainer.precision=bf16-mixed for speed"
            )
        optimizer = self.optimizer([p for p in self.model.parameters() if p.requires_grad])
        total = self.supervised_tokens or int(self.trainer.estimated_stepping_batches)
        scheduler = spread(self.schedule, optimizer, self.warmup, total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def check_values(
    temperature: float,
    alpha_ce: float,
    tail: str,
    unmatched: str,
    warmup: float,
    supervised_tokens: int | None,
    grad_limit: float | None,
) -> None:
    """Raises ValueError, a sentence with the value and what is allowed."""
    if temperature <= 0:
        raise ValueError(f"student.temperature is more than 0, not {temperature}")
    if not 0 <= alpha_ce <= 1:
        raise ValueError(f"student.alpha_ce (share of cross entropy in the loss) is 0 to 1, not {alpha_ce}")
    if tail not in TAILS:
        raise ValueError(f"student.tail is one of {', '.join(TAILS)}, not {tail!r}")
    if unmatched not in UNMATCHED:
        raise ValueError(f"student.unmatched is one of {', '.join(UNMATCHED)}, not {unmatched!r}")
    if not 0 <= warmup <= 1:
        raise ValueError(f"student.warmup (share of the steps) is 0 to 1, not {warmup}")
    if supervised_tokens is not None and supervised_tokens < 1:
        raise ValueError(f"student.supervised_tokens is 1 or more, or null, not {supervised_tokens}")
    if grad_limit is not None and not grad_limit > 0:
        raise ValueError(f"student.grad_limit (norm of the gradient) is more than 0, or null, not {grad_limit}")
