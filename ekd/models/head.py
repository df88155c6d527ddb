"""The LM head on chosen rows: what distilling them costs, with its gradient, and what the student thinks there.

Logits are made a chunk of rows at a time and none outlives its chunk: the gradient is made in the forward pass, from
one small autograd over K+1 categories a row (`ekd.models.logits` has the formula). So every loss runs through the same
three matrix products, which no method can avoid: h W^T, dz W and dz^T h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ekd.models.logits import (
    EMPTY,
    Distill,
    Pool,
    Product,
    as_product,
    chunk_rows,
    fill_absent,
    finish,
    multiply,
    split_view,
)
from ekd.models.segments import chunks
from ekd.types import Loss, PricesSpans, Stats

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

TAILS = ("bucket", "renormalise", "truncate")


class Adapter(NamedTuple):
    """A low-rank addition to the head's weight, as LoRA makes: weight + up down."""

    down: Tensor  # (r, H)
    up: Tensor  # (V, r), LoRA's scaling included
    dropout: float = 0.0  # of what `down` reads; 0 outside training


class Head(NamedTuple):
    """logits = softcap tanh(scale (h (weight + sum up down)^T + bias) / softcap)"""

    weight: Tensor  # (V, H)
    bias: Tensor | None = None  # (V,)
    scale: float = 1.0  # Cohere's logit_scale
    softcap: float | None = None  # Gemma's final_logit_softcapping
    adapters: tuple[Adapter, ...] = ()


class Terms(NamedTuple):
    """What rows are priced by. None of it carries gradient."""

    ids: Tensor  # (N, K), -1 = none
    log_p: Tensor  # (N, K+1)
    weight: Tensor  # (N,)
    unmatched: Tensor  # (N,) bool
    loss: Loss
    temperature: float
    alpha_ce: float | Tensor  # of all rows, or (N,) of each
    tail: str
    span: Tensor | None  # (N,) ascending; None: rows are priced one by one

    def rows(self, part: slice) -> Terms:
        return self._replace(
            ids=self.ids[part],
            log_p=self.log_p[part],
            weight=self.weight[part],
            unmatched=self.unmatched[part],
            alpha_ce=self.alpha_ce[part] if isinstance(self.alpha_ce, Tensor) else self.alpha_ce,
            span=None if self.span is None else self.span[part],
        )

    def everywhere(self, alpha_ce: float) -> bool:
        """Whether all rows have this one share; where each has its own, nobody looks."""
        return not isinstance(self.alpha_ce, Tensor) and self.alpha_ce == alpha_ce

    def temperatures(self) -> tuple[float, ...]:
        """Those at which a softmax is needed; cross entropy is at 1, and comes last."""
        if self.temperature != 1 and self.everywhere(0) and not bool(self.unmatched.any()):
            return (self.temperature,)
        return (1.0,) if self.temperature == 1 or self.everywhere(1) else (self.temperature, 1.0)

    def price(self, log_qs: list[Tensor]) -> Tensor:
        """log_qs (n, K+1), one for each temperature -> (n,), differentiable."""
        ce = -log_qs[-1][:, 0]
        if self.everywhere(1):
            return ce
        log_p, log_q = self.log_p.to(ce.dtype).clamp_min(EMPTY), log_qs[0]
        if self.tail != "bucket":
            log_p, log_q = _without_tail(log_p, self.tail), _without_tail(log_q, self.tail)
        # An unmatched row does not pay this price; where p = q it is finite, and so is its gradient, whatever the loss.
        log_p = torch.where(self.unmatched[:, None], log_q.detach(), log_p)
        # Gradients through a softmax at T are about 1 / T^2 as large (Hinton et al. 2015): with T^2 alpha_ce means the
        # same share at every temperature.
        soft = self.temperature**2 * self._soft(log_p, log_q)
        return torch.where(self.unmatched, ce, (1 - self.alpha_ce) * soft + self.alpha_ce * ce)

    def _soft(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        if self.span is not None and isinstance(self.loss, PricesSpans):
            return self.loss.of_spans(log_p, log_q, self.span)
        return self.loss(log_p, log_q)


def _without_tail(log: Tensor, tail: str) -> Tensor:
    known = log[:, :-1]
    if tail == "renormalise":
        known = (known - known.logsumexp(1, keepdim=True)).clamp_min(EMPTY)
    return F.pad(known, (0, 1), value=EMPTY)


def distill(
    hidden: Tensor,
    head: Head,
    teacher_ids: Tensor,
    teacher_logprobs: Tensor,
    weight: Tensor,
    loss: Loss,
    *,
    unmatched: Tensor | None = None,
    temperature: float = 1.0,
    alpha_ce: float | Tensor = 0.0,
    tail: str = "bucket",
    span: Tensor | None = None,
    budget_mb: float,
) -> tuple[Tensor, Tensor]:
    """The sum of weight * price (a scalar with gradient) and price (N,), detached.

    hidden (N, H); teacher_ids (N, K), all different in a row, padded by -1; teacher_logprobs (N, K+1) at `temperature`,
    the tail last; weight (N,); unmatched (N,) bool: rows without a teacher, which pay cross entropy alone.

        price = (1 - alpha_ce) T^2 loss(ln p, ln q at T) + alpha_ce CE
        CE = -ln q of column 0, the next token, at temperature 1;  alpha_ce of all rows, or (N,) of each

    tail: `bucket` keeps everything else as one category; `renormalise` divides both sides by what their known ids hold,
    so that the tail has no gradient; `truncate` leaves it out of the sum. span: (N,) ascending, for a loss that prices
    spans of rows together; None: each row is one. budget_mb: megabytes for logits, whatever N; no span is cut for it.
    The gradient is made here, so backward works once. N = 0 gives 0 and gradients of 0. Raises ValueError.
    """
    unmatched = torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device) if unmatched is None else unmatched
    weight = weight.detach()
    terms = Terms(teacher_ids, teacher_logprobs, weight, unmatched, loss, float(temperature), alpha_ce, tail, span)
    _check(hidden, head, terms, budget_mb)
    xs, ws = _factors(hidden, head)
    shape = (head.scale, head.softcap)
    grad = torch.is_grad_enabled()
    total, price = Distill.apply(terms, shape, budget_mb, grad, head.bias, *xs, *ws)  # type: ignore[no-untyped-call]
    return total, price


def _check(hidden: Tensor, head: Head, terms: Terms, budget_mb: float) -> None:
    if terms.tail not in TAILS:
        raise ValueError(f"tail is one of {', '.join(TAILS)}, not {terms.tail!r}")
    n, k = terms.ids.shape
    share = terms.alpha_ce
    shared_out = bool(((share >= 0) & (share <= 1)).all()) if isinstance(share, Tensor) else 0 <= share <= 1
    if not terms.temperature > 0 or not shared_out or not budget_mb > 0:
        raise ValueError(
            "temperature and budget_mb are more than 0 and alpha_ce is 0 to 1, "
            f"not {terms.temperature}, {budget_mb} and {terms.alpha_ce}"
        )
    if isinstance(share, Tensor) and share.shape not in ((), (n,)):
        raise ValueError(f"alpha_ce is one number, or one for each of {n} rows, not {tuple(share.shape)}")
    shapes = (tuple(terms.log_p.shape), len(terms.weight), len(terms.unmatched), len(hidden))
    if terms.span is not None and (terms.span.shape != (n,) or bool((terms.span.diff() < 0).any())):
        raise ValueError(f"span is one ascending number for each of {n} rows, not {terms.span}")
    if shapes != ((n, k + 1), n, n, n) or k == 0:
        raise ValueError(
            f"teacher_ids is {(n, k)}, so teacher_logprobs is {(n, k + 1)} (k at least 1) and weight, unmatched and "
            f"hidden have {n} rows, not {shapes[0]}, {shapes[1]}, {shapes[2]} and {shapes[3]}"
        )
    # one look for both: on a GPU each is a wait
    lowest, highest = torch.stack([terms.ids[:, 0].min(), terms.ids.max()]).tolist() if n else (0, 0)
    if lowest < 0 or highest >= len(head.weight):
        raise ValueError(
            f"teacher id {lowest if lowest < 0 else highest} is outside the student's head of {len(head.weight)} rows: "
            "teacher and student need the same tokenizer, and each row begins with the token that came next"
        )


def _factors(hidden: Tensor, head: Head) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The logits as a sum of products x w^T: the head's own, and one for all adapters."""
    if not head.adapters:
        return (hidden,), (head.weight,)
    low = [F.linear(F.dropout(hidden, a.dropout), a.down.to(hidden.dtype)) for a in head.adapters]
    return (hidden, torch.cat(low, 1)), (head.weight, torch.cat([a.up for a in head.adapters], 1))


@torch.no_grad()
def stats(hidden: Tensor, head: Head, teacher_ids: Tensor, *, budget_mb: float, top: int = 0) -> Stats:
    """What the student thinks at temperature 1, without gradient: hidden (N, H), teacher_ids (N, K) padded by -1.

    top: how many of its most likely ids are named; each costs one more look at every logit.
    """
    xs, ws = _factors(hidden, head)
    product = as_product(head.bias, (*xs, *ws), head.scale, head.softcap)
    parts = chunks(len(hidden), chunk_rows(product, budget_mb, 1, False))
    pool = Pool.make(product, max(p.stop - p.start for p in parts), 1, False)
    seen = [_look(product.rows(p), pool.rows(slice(p.stop - p.start)), teacher_ids[p], top) for p in parts]
    return Stats(*(torch.cat(column) for column in zip(*seen, strict=True)))


def _look(part: Product, pool: Pool, ids: Tensor, names: int) -> Stats:
    view = split_view(part, pool, ids)
    (rest, top, total, known), dot, highest = view
    scores = view.split.scores()
    log_q = scores.log_softmax(1).clamp_min_(EMPTY)
    log_top = top - scores.logsumexp(1, keepdim=True)  # ln q of the tail's highest id
    tail = log_top.exp() * (dot + total * log_top)  # sum q ln q over the tail
    entropy = -tail[:, 0] - (log_q[:, :-1].exp() * log_q[:, :-1]).sum(1)
    best, index = known.max(1, keepdim=True)
    argmax = torch.where((total == 0) | (best > top), ids.gather(1, index), highest)
    if names:  # `rest` is z - top in the tail; with the known ids put back, all of it
        rest.scatter_(1, fill_absent(ids), torch.where(ids < 0, known[:, :1], known) - top)
    mass, likeliest = (rest if names else rest[:, :0]).topk(min(names, rest.shape[1]), 1)
    return Stats(entropy.clamp_min_(0.0), log_q, argmax[:, 0], likeliest, mass + log_top)


def head_of(model: PreTrainedModel) -> Head:
    """The head of a causal LM as plain tensors, also where peft wraps it. Raises ValueError if it is not linear."""
    layer = model.get_output_embeddings()
    adapters: tuple[Adapter, ...] = ()
    if not isinstance(layer, torch.nn.Linear):
        layer, adapters = _unwrap(layer)
    config = model.config.get_text_config()
    values = vars(config)
    caps = (values.get(name) for name in ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap"))
    return Head(layer.weight, layer.bias, _scale(config), next(filter(None, caps), None), adapters)


def _scale(config: PreTrainedConfig) -> float:
    """What a family multiplies its logits by: Cohere, Falcon-H1, HyperCLOVA X, and Granite, which divides."""
    values = vars(config)
    scale = values.get("logit_scale") or values.get("lm_head_multiplier") or values.get("output_multiplier") or 1.0
    other = values.get("logits_scaling") or 1.0
    return float(scale * other if config.model_type.startswith("hyperclovax") else scale / other)


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Raises ValueError for a model that makes its logits otherwise than `head_of` says; four tokens are enough."""
    mode, ids = model.training, torch.arange(4, device=model.device)[None]
    model.eval()
    want = model(input_ids=ids, use_cache=False).logits[0].float()
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0]
    model.train(mode)
    xs, ws = _factors(hidden, head := head_of(model))
    product = as_product(head.bias, (*xs, *ws), head.scale, head.softcap)
    pool = Pool.make(product, len(hidden), 1, False)
    multiply(product.rows(slice(None)), pool.product)
    have = finish(product, pool).float()
    # wide enough for weights in bfloat16 (8 bits); a scale or a cap that was missed is off by far more
    if have.shape != want.shape or not torch.allclose(have, want, rtol=0.05, atol=0.02 * float(want.abs().max())):
        raise ValueError(
            f"the head of a {model.config.model_type} model is more than a matrix product, a scale and a soft cap, so "
            "it cannot be distilled into in chunks; choose another student"
        )


def _unwrap(layer: Any) -> tuple[torch.nn.Linear, tuple[Adapter, ...]]:
    """peft's wrappers: a head trained in full (modules_to_save), or one with LoRA."""
    from peft.tuners.lora import Linear
    from peft.utils.other import ModulesToSaveWrapper

    if isinstance(layer, ModulesToSaveWrapper):
        layer = layer.modules_to_save[layer.active_adapters[0]] if not layer.disable_adapters else layer.original_module
    adapters: tuple[Adapter, ...] = ()
    if isinstance(layer, Linear):
        names = [] if layer.disable_adapters or layer.merged else layer.active_adapters
        adapters = tuple(_adapter(layer, name) for name in names if name in layer.lora_A)
        layer = layer.get_base_layer()
    if not isinstance(layer, torch.nn.Linear):
        raise ValueError(f"the student's head is a {type(layer).__name__}, but has to be a Linear, bare or with LoRA")
    return layer, adapters


def _adapter(layer: Any, name: str) -> Adapter:
    if name in layer.lora_variant or layer.lora_bias[name]:
        raise ValueError("the head has a LoRA with DoRA, a bias or another extra, but has to have plain LoRA")
    drop = layer.lora_dropout[name]
    rate = drop.p if isinstance(drop, torch.nn.Dropout) and drop.training else 0.0
    return Adapter(layer.lora_A[name].weight, layer.lora_B[name].weight * layer.scaling[name], rate)
