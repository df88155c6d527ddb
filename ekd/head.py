"""The LM head on chosen rows, a chunk at a time: what distillation costs there, with its gradient, and row statistics.

With q the student's distribution at temperature T, u(j) the category of vocabulary entry j (one of the row's K known
ids, or the tail) and G_u = dD/dln q_u (autograd on the small (n, K+1) tensor), the gradient of every loss D is

    dD/dz_j = (G_u(j) q_j / q_u(j) - q_j sum_u G_u) / T,

written over the logits of the chunk. So no logits outlive their chunk, and the tail is a sum of its own exponentials,
never 1 - sum q.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ekd.types import Loss, Stats

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EMPTY = -1e30  # ln of the mass of an empty category: finite, so that p ln p is 0 without a special case
TAILS = ("bucket", "renormalise", "truncate")


class Adapter(NamedTuple):
    """A low-rank addition to the head's weight: W + up down (LoRA's scaling is inside `up`)."""

    down: Tensor  # (r, H)
    up: Tensor  # (V, r)
    dropout: float = 0.0  # on what `down` reads; 0 outside training


class Head(NamedTuple):
    """logits = softcap tanh(scale (h (W + sum up down)^T + bias) / softcap)"""

    weight: Tensor  # (V, H)
    bias: Tensor | None = None  # (V,)
    scale: float = 1.0  # Cohere's logit_scale
    softcap: float | None = None  # Gemma's final_logit_softcapping
    adapters: tuple[Adapter, ...] = ()


class _Terms(NamedTuple):
    """What a row is priced by; everything that carries no gradient."""

    ids: Tensor  # (N, K) -1 = none
    log_p: Tensor  # (N, K+1)
    weight: Tensor  # (N,)
    hard: Tensor  # (N,) bool
    loss: Loss
    temperature: float
    alpha_ce: float
    tail: str
    views: tuple[float, ...]  # the temperatures at which the softmax is needed
    scale: float
    softcap: float | None
    rows: int  # of a chunk
    train: bool  # gradients are wanted


def head_of(model: PreTrainedModel) -> Head:
    """The head of a causal LM as plain tensors, also where LoRA wraps it."""
    config = model.config.get_text_config().to_dict()
    layer = model.get_output_embeddings()
    adapters: tuple[Adapter, ...] = ()
    if not isinstance(layer, torch.nn.Linear):
        layer, adapters = _unwrap(layer)
    scale = config.get("logit_scale") or config.get("lm_head_multiplier") or 1.0
    if config.get("logits_scaling"):  # Granite divides by it
        scale = scale / config["logits_scaling"]
    return Head(layer.weight, layer.bias, float(scale), config.get("final_logit_softcapping"), adapters)


def _unwrap(layer: torch.nn.Module) -> tuple[torch.nn.Linear, tuple[Adapter, ...]]:
    from peft.tuners.lora import Linear
    from peft.utils.other import ModulesToSaveWrapper

    if isinstance(layer, ModulesToSaveWrapper):
        return layer.modules_to_save[layer.active_adapters[0]], ()
    if not isinstance(layer, Linear):
        raise ValueError(f"the LM head is a {type(layer).__name__}, but must be a Linear, bare or wrapped by LoRA")
    adapters = []
    for name in layer.active_adapters if not layer.disable_adapters else []:
        drop = layer.lora_dropout[name]
        rate = drop.p if isinstance(drop, torch.nn.Dropout) and drop.training else 0.0
        adapters.append(Adapter(layer.lora_A[name].weight, layer.lora_B[name].weight * layer.scaling[name], rate))
    return layer.get_base_layer(), tuple(adapters)


def distill(
    hidden: Tensor,
    head: Head,
    teacher_ids: Tensor,
    teacher_logprobs: Tensor,
    weight: Tensor,
    loss: Loss,
    *,
    hard: Tensor | None = None,
    temperature: float = 1.0,
    alpha_ce: float = 0.0,
    tail: str = "bucket",
    budget_mb: float = 64,
) -> tuple[Tensor, Tensor]:
    """hidden (N,H), teacher_ids (N,K) padded by -1, teacher_logprobs (N,K+1), weight (N,), hard (N,) bool
    -> sum of weight * price (scalar, with gradient), price (N,) detached.

    price = (1 - alpha_ce) T^2 loss(ln p, ln q at T) + alpha_ce CE, CE = -ln q at T = 1 of column 0, the next token. A
    hard row has no teacher and costs CE alone. The ids of a row differ from one another. Tails: `bucket` keeps "everything
    else" as one category; `renormalise` divides both sides by their known mass (the tail then has no gradient);
    `truncate` leaves the tail out of the sum. Logits take about `budget_mb` megabytes, whatever N. The gradient is
    made in the forward pass, so backward runs once.
    """
    if tail not in TAILS:
        raise ValueError(f"tail is {tail!r}, but must be one of {', '.join(TAILS)}")
    if teacher_ids.numel() and int(teacher_ids.max()) >= head.weight.shape[0]:
        raise ValueError(
            f"a teacher id is {int(teacher_ids.max())}, but the student's head has {head.weight.shape[0]} rows: "
            "teacher and student need the same tokenizer"
        )
    if hard is None:
        hard = torch.zeros_like(teacher_ids[:, 0], dtype=torch.bool)
    views: tuple[float, ...] = (float(temperature),)
    if temperature != 1 and (alpha_ce > 0 or bool(hard.any())):
        views = (float(temperature), 1.0)
    low, up = _low_rank(hidden, head)
    buffers = len(views) + (head.softcap is not None)
    terms = _Terms(
        teacher_ids, teacher_logprobs, weight.detach(), hard, loss, float(temperature), alpha_ce, tail, views,
        head.scale, head.softcap, chunk_rows(head, budget_mb, buffers), torch.is_grad_enabled(),
    )  # fmt: skip
    return _Distil.apply(hidden, head.weight, head.bias, low, up, terms)


def _low_rank(hidden: Tensor, head: Head) -> tuple[Tensor | None, Tensor | None]:
    """The adapters' part of the logits as one more product: low (N,r) up (V,r)^T."""
    if not head.adapters:
        return None, None
    low = [F.linear(F.dropout(hidden, a.dropout, a.dropout > 0), a.down.to(hidden.dtype)) for a in head.adapters]
    return torch.cat(low, 1), torch.cat([a.up for a in head.adapters], 1)


def chunk_rows(head: Head, budget_mb: float, buffers: int = 1) -> int:
    """Rows whose logits, `buffers` times over, fit the budget."""
    wide = max(4, head.weight.element_size()) * buffers
    if head.weight.element_size() < 4:
        wide += head.weight.element_size()
    return max(1, int(budget_mb * 2**20 / (head.weight.shape[0] * wide)))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _logits(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    low: Tensor | None,
    up: Tensor | None,
    scale: float,
    out: Tensor,
) -> Tensor:
    """scale (h W^T + low up^T + bias) -> out, in at least float32."""
    if weight.dtype == out.dtype:
        z = out.addmm_(hidden, weight.t(), beta=0, alpha=scale)
        if low is not None:
            z.addmm_(low, up.t(), alpha=scale)
    else:
        y = hidden @ weight.t()
        if low is not None:
            y.addmm_(low, up.t())
        z = out.copy_(y).mul_(scale)
    return z if bias is None else z.add_(bias.to(z.dtype), alpha=scale)


class _View(NamedTuple):
    """One softmax of a chunk, split in known ids and tail."""

    e: Tensor  # (n, V) exp(z - tail's max), 0 at the known ids
    log_q: Tensor  # (n, K+1)
    tail_sum: Tensor  # (n,) sum of e; 0 where the tail is empty
    tail_mass: Tensor  # (n,) q of the tail / tail_sum
    known: Tensor  # (n, K) bool


def _split(z: Tensor, ids: Tensor) -> _View:
    """z (n,V) at its temperature is overwritten by e."""
    known = ids >= 0
    safe = torch.where(known, ids, ids[:, :1])
    z_known = z.gather(1, safe).masked_fill(~known, -math.inf)
    z.scatter_(1, safe, -math.inf)
    top = z.amax(1, keepdim=True).nan_to_num_(neginf=0.0)
    e = z.sub_(top).exp_()
    total = e.sum(1)
    log_tail = top[:, 0] + total.log()
    log_z = torch.logaddexp(z_known.logsumexp(1), log_tail)
    log_q = (torch.cat([z_known, log_tail[:, None]], 1) - log_z[:, None]).clamp_min_(EMPTY)
    return _View(e, log_q, total, (top[:, 0] - log_z).exp(), known)


def _price(terms: _Terms, rows: slice, log_qs: list[Tensor]) -> Tensor:
    """log_qs, one for each view, (n, K+1) -> (n,), differentiable."""
    log_q, hard = log_qs[0], terms.hard[rows]
    ce = -log_qs[-1][:, 0]
    if terms.alpha_ce == 1:
        return ce
    log_p = terms.log_p[rows].to(log_q.dtype).clamp_min(EMPTY)
    if terms.tail != "bucket":
        log_p, log_q = _without_tail(log_p, terms.tail), _without_tail(log_q, terms.tail)
    log_p = torch.where(hard[:, None], log_q.detach(), log_p)  # a price without a gradient, that nobody pays
    soft = terms.temperature**2 * terms.loss(log_p, log_q)
    return torch.where(hard, ce, (1 - terms.alpha_ce) * soft + terms.alpha_ce * ce)


def _without_tail(log: Tensor, tail: str) -> Tensor:
    known = log[:, :-1]
    if tail == "renormalise":
        known = (known - known.logsumexp(1, keepdim=True)).clamp_min(EMPTY)
    return F.pad(known, (0, 1), value=EMPTY)


def _gradient(view: _View, grad: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """grad (n, K+1) = dD/dln q -> dD/dz (n, V) at temperature 1, written over e."""
    grad = torch.where(F.pad(view.known, (0, 1), value=True), grad, 0.0) / temperature
    total = grad.sum(1)
    tail = torch.where(view.tail_sum > 0, grad[:, -1] / view.tail_sum, 0.0) - total * view.tail_mass
    known = grad[:, :-1] - view.log_q[:, :-1].exp() * total[:, None]
    known = torch.where(view.known, known, known[:, :1])
    safe = torch.where(view.known, ids, ids[:, :1])
    return view.e.mul_(tail[:, None]).scatter_(1, safe, known)


def _chunks(count: int, rows: int) -> Iterator[slice]:
    """Equal chunks, as few as fit."""
    parts = max(1, math.ceil(count / rows))
    for i in range(parts):
        yield slice(count * i // parts, count * (i + 1) // parts)


class _Distil(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, low, up, terms: _Terms):  # type: ignore[no-untyped-def]
        inputs = (hidden, weight, bias, low, up)
        wanted = [terms.train and x is not None and x.requires_grad for x in inputs]
        wide = _wide(weight.dtype)
        grads = [
            torch.zeros_like(x, dtype=wide if i in (1, 2, 4) else x.dtype) if w else None
            for i, (x, w) in enumerate(zip(inputs, wanted, strict=True))
        ]
        price = hidden.new_zeros(hidden.shape[0], dtype=wide)
        pool = hidden.new_empty(len(terms.views), min(terms.rows, len(hidden)), weight.shape[0], dtype=wide)
        for rows in _chunks(len(hidden), terms.rows):
            if rows.stop > rows.start:
                price[rows] = _pay(inputs, grads, rows, terms, pool[:, : rows.stop - rows.start])
        ctx.grads = [g if g is None else g.to(x.dtype) for g, x in zip(grads, inputs, strict=True)]
        ctx.mark_non_differentiable(price)
        return (price * terms.weight.to(wide)).sum(), price

    @staticmethod
    def backward(ctx, grad_total, _):  # type: ignore[no-untyped-def]
        if ctx.grads is None:
            raise RuntimeError("distill's gradient was already taken: it is made once, so retain_graph does not apply")
        grads, ctx.grads = ctx.grads, None
        if grad_total.device.type != "cpu" or grad_total != 1:
            for g in grads:
                if g is not None:
                    g.mul_(grad_total)
        return (*grads, None)


def _pay(inputs, grads, rows: slice, terms: _Terms, pool: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    """Price one chunk and add its gradients."""
    hidden, weight, bias, low, up = inputs
    h = hidden[rows].to(weight.dtype)
    a = None if low is None else low[rows].to(weight.dtype)
    up = None if up is None else up.to(weight.dtype)
    z = _logits(h, weight, bias, a, up, terms.scale, pool[-1])
    slope = None
    if terms.softcap is not None:
        z.div_(terms.softcap).tanh_()
        slope = 1 - z * z
        z.mul_(terms.softcap)
    ids = terms.ids[rows]
    views = []
    for i, temperature in enumerate(terms.views):
        z_t = z if i == len(terms.views) - 1 and temperature == 1 else torch.div(z, temperature, out=pool[i])
        views.append(_split(z_t, ids))
    with torch.enable_grad():
        log_qs = [v.log_q.requires_grad_() for v in views]
        price = _price(terms, rows, log_qs)
        if any(g is not None for g in grads):
            paid = (price * terms.weight[rows].to(price.dtype)).sum()
            small = torch.autograd.grad(paid, log_qs, allow_unused=True, materialize_grads=True)
    if any(g is not None for g in grads):
        parts = [_gradient(v, g, ids, t) for v, g, t in zip(views, small, terms.views, strict=True)]
        dz = parts[0] if len(parts) == 1 else parts[0].add_(parts[1])
        _accumulate(dz if slope is None else dz.mul_(slope), h, weight, a, up, grads, rows, terms.scale)
    return price.detach()


def _accumulate(dz: Tensor, h: Tensor, weight: Tensor, low, up, grads, rows: slice, scale: float) -> None:  # type: ignore[no-untyped-def]
    d_hidden, d_weight, d_bias, d_low, d_up = grads
    if d_bias is not None:
        d_bias.add_(dz.sum(0), alpha=scale)
    dz = dz.to(weight.dtype)
    if d_hidden is not None:
        d_hidden[rows] = torch.mm(dz, weight).mul_(scale)
    if d_low is not None:
        d_low[rows] = torch.mm(dz, up).mul_(scale)
    for d, x in ((d_weight, h), (d_up, low)):
        if d is None:
            continue
        if d.dtype == dz.dtype:
            d.addmm_(dz.t(), x, alpha=scale)
        else:
            d.add_(torch.mm(dz.t(), x), alpha=scale)


@torch.no_grad()
def stats(hidden: Tensor, head: Head, teacher_ids: Tensor, *, budget_mb: float = 64) -> Stats:
    """hidden (N,H), teacher_ids (N,K) padded by -1 -> entropy (N,), log_q (N,K+1), argmax (N,), at temperature 1."""
    low, up = _low_rank(hidden, head)
    parts = []
    for rows in _chunks(len(hidden), chunk_rows(head, budget_mb, 2)):
        h, ids = hidden[rows].to(head.weight.dtype), teacher_ids[rows]
        z = h.new_empty(len(h), head.weight.shape[0], dtype=_wide(head.weight.dtype))
        a = None if low is None else low[rows].to(h.dtype)
        z = _logits(h, head.weight, head.bias, a, None if up is None else up.to(h.dtype), head.scale, z)
        if head.softcap is not None:
            z.div_(head.softcap).tanh_().mul_(head.softcap)
        argmax = z.argmax(1) if len(h) else ids[:, 0]
        log_q = torch.log_softmax(z, 1)
        entropy = -(log_q.exp() * log_q).sum(1)
        parts.append((entropy, _split(z, ids).log_q, argmax))
    return Stats(*(torch.cat(x) for x in zip(*parts, strict=True)))
