"""What a training step takes in memory, before it starts.

The step is played on fake tensors: the student's real code on its real config, without weights, and every storage that
comes and goes is counted. Nothing is loaded, so a large model is planned on a small machine.
"""

from __future__ import annotations

import resource
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from rich.table import Table
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ekd.models.head import head_of
from ekd.models.precision import forward_context

if TYPE_CHECKING:
    from ekd.distill.student import Student

LEFT = 0.1  # share of a device that is left to its driver and to fragmentation
LENGTH = 512  # tokens of a sequence, where nothing is known about the traces


class Plan(NamedTuple):
    """Bytes. `peak` is the most at one time, not the sum: activations are gone when the optimizer works."""

    tokens: int
    parameters: int
    gradients: int
    optimizer: int
    activations: int
    head: int
    peak: int


class Memory(TorchDispatchMode):
    """Bytes of all storages that are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's
        self.now = self.peak = 0
        self.live: set[int] = set()

    def note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.live:
            self.live.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self.live.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.note(leaf)
        return out


class _FakeHead(torch.autograd.Function):
    """What `ekd.models.head.distill` holds: a chunk of logits, and the gradients that it makes in its forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, budget: int) -> Tensor:
        room = min(budget, len(hidden) * len(weight) * 4)
        chunk = torch.empty(room, dtype=torch.uint8, device=hidden.device)
        dw = torch.empty_like(weight, dtype=torch.float32).to(weight.dtype) if weight.requires_grad else None
        ctx.grads = torch.empty_like(hidden), dw
        del chunk
        return hidden.new_zeros(())

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        grads, ctx.grads = ctx.grads, None
        return (*grads, None)


def check_plan(wanted: Any, strategy: Any) -> None:
    """plan= and trainer.strategy=, as they were given."""
    if wanted not in (True, "measure"):
        raise ValueError(f"plan is false, true (say it and stop) or measure (say it and train), not {wanted!r}")
    if strategy == "fsdp2":
        raise ValueError(
            f"plan={str(wanted).lower()} plans a student that is whole on its device, and trainer.strategy=fsdp2 "
            "shares it out: set trainer.strategy=auto for a plan of one device, or plan=false"
        )


def plan(student: Student, tokens: int, precision: str, *, length: int = LENGTH, packing: bool = False) -> Plan:
    """One optimizer step on `tokens` tokens, in sequences of `length` at most, each of them a row that pays."""
    with torch.device("meta"):  # peft moves its adapters, which fake tensors do not allow
        model = student.skeleton({"bf16-true": "bfloat16", "16-true": "float16"}.get(precision))
    with FakeTensorMode(), Memory() as memory:
        _place(model)
        for parameter in model.parameters():
            memory.note(parameter.data)
        parameters = memory.now
        learned = [p for p in model.parameters() if p.requires_grad]
        optimizer = student.pace.optimizer(learned)
        if not type(optimizer).__module__.startswith("torch."):
            raise ValueError(f"plan=true knows torch's own optimizers, not {type(optimizer).__name__}")
        budget = int(student.objective.head_mb * 2**20)
        _step(model, optimizer, memory, (1, 8), budget, precision)  # the optimizer's state is there from now on
        state = memory.now - parameters
        memory.peak = memory.now
        length = min(length, tokens)
        shape = (1, tokens) if packing else (max(1, tokens // length), length)
        before, after, gradients = _step(model, optimizer, memory, shape, budget, precision)
        return Plan(tokens, parameters, gradients, state, before - parameters - state, after - before, memory.peak)


def _place(model: torch.nn.Module) -> None:
    """A model on `meta` gets storages, tied weights one between them."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for name, old in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if id(old) not in made:
                fresh = torch.empty(old.shape, dtype=old.dtype)
                is_weight = isinstance(old, torch.nn.Parameter)
                made[id(old)] = torch.nn.Parameter(fresh, requires_grad=old.requires_grad) if is_weight else fresh
            setattr(module, name, made[id(old)])


def _step(
    model: Any, optimizer: Any, memory: Memory, shape: tuple[int, int], budget: int, precision: str
) -> tuple[int, int, int]:
    """-> bytes after the decoder, the peak in the head, and the gradients' bytes."""
    with forward_context(precision, torch.device("cpu")):
        ids = torch.zeros(shape, dtype=torch.long)
        positions = torch.arange(shape[1]).expand(shape)
        out = model.get_decoder()(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
        before, earlier, memory.peak = memory.now, memory.peak, memory.now
        total = _FakeHead.apply(out.flatten(0, 1), head_of(model).weight, budget)  # type: ignore[no-untyped-call]
        after, memory.peak = memory.peak, max(earlier, memory.peak)
    del out
    total.backward()
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return before, after, gradients


def largest(student: Student, device_gb: float, precision: str, **shape: Any) -> Plan | None:
    """The plan with the most tokens that a device holds; None where even one sequence does not fit."""
    limit = device_gb * 1e9 * (1 - LEFT)
    best = plan(student, LENGTH, precision, **shape)
    if best.peak > limit:
        return None
    fits, fails = 1, 4  # in units of LENGTH
    while (beyond := plan(student, fails * LENGTH, precision, **shape)).peak <= limit:
        best, fits, fails = beyond, fails, 4 * fails
    while fails - fits > max(1, fits // 16):
        # what a step takes is nearly a straight line in its tokens, so two or three more plans are enough
        share = (limit - best.peak) / max(1, beyond.peak - best.peak)
        middle = min(max(fits + int(share * (fails - fits)), fits + max(1, fits // 32)), fails - 1)
        found = plan(student, middle * LENGTH, precision, **shape)
        if found.peak <= limit:
            best, fits = found, middle
        else:
            beyond, fails = found, middle
    return best


def plan_table(planned: Plan, most: Plan | None, device_gb: float, less: Plan | None = None) -> Table:
    """For a person. less: the largest with gradient checkpointing."""
    view = Table(title=f"memory of one step with data.max_tokens={planned.tokens:,}", show_header=False)
    for name in ("parameters", "gradients", "optimizer", "activations", "head"):
        view.add_row(name, f"{planned._asdict()[name] / 1e9:.2f} GB")
    view.add_row("peak", f"[bold]{planned.peak / 1e9:.2f} GB")
    title = f"largest data.max_tokens on {device_gb:g} GB"
    view.add_row(
        title, f"[bold]{most.tokens:,}" if most else "none: use gradient checkpointing, student=lora or bf16-true"
    )
    if less is not None:
        view.add_row("the same with student.gradient_checkpointing=true", f"{less.tokens:,}")
    return view


def resident(reset: bool = False) -> tuple[int, int]:
    """(now, peak) bytes of this process, or of the GPU's allocator; Linux. reset: the peak starts anew."""
    if torch.cuda.is_available():
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    now, peak = (int(status.split(f"{name}:")[1].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak


def peak_memory(*, reset: bool = False) -> float:
    """GB (2**30 bytes) since the reset: of the GPU's allocator or, on Linux, of this process; elsewhere since it began.

    A process that ran another cell of a sweep before starts from what that one left.
    """
    if torch.cuda.is_available() or Path("/proc/self/clear_refs").exists():
        return resident(reset)[1] / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
