"""Logits over a large vocabulary, a chunk of rows at a time and never kept: the arithmetic under `ekd.models.head`.

The V entries of a row fall into K+1 categories: its K known ids, and the tail, everything else. A category's score is
c_u = z_u for a known id and c_tail = ln sum_tail e^z, so that ln q = log_softmax(c), over K+1 numbers. The tail is a
sum of its own exponentials, never 1 - sum q. For any D(ln q), autograd gives g = dD/dc on that small tensor, and then

    dD/dz_j = g_u for the known id u,  g_tail e^(z_j - c_tail) in the tail,

which is one multiplication, written over the exponentials that made the sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ekd.models.segments import chunks

CACHE_MB = 1.5  # for each core: passes over a chunk go in blocks of rows that stay in its cache
EMPTY = -1e30  # ln of the mass of an empty category: finite, so that p ln p is 0 without a special case
PIECE = 8192  # rows of a weight's gradient that change dtype at once


class Product(NamedTuple):
    """z = softcap tanh(scale (sum x w^T + bias) / softcap): the logits of N rows, not yet multiplied out."""

    xs: tuple[Tensor, ...]  # (N, r) each: the hidden rows; what adapters made of them
    ws: tuple[Tensor, ...]  # (V, r) each, in the dtype of the products
    bias: Tensor | None  # (V,)
    scale: float
    softcap: float | None

    @property
    def wide(self) -> torch.dtype:
        """The dtype of everything but the products."""
        return torch.float64 if self.ws[0].dtype == torch.float64 else torch.float32

    def rows(self, part: slice) -> Product:
        return self._replace(xs=tuple(x[part].to(self.ws[0].dtype) for x in self.xs))


def as_product(bias: Tensor | None, factors: tuple[Tensor, ...], scale: float, softcap: float | None) -> Product:
    """In the weight's dtype, or autocast's where that is on."""
    half, device = len(factors) // 2, factors[0].device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else factors[half].dtype
    return Product(factors[:half], tuple(w.detach().to(dtype) for w in factors[half:]), bias, scale, softcap)


class Pool(NamedTuple):
    """The memory that one chunk after another is written to."""

    product: Tensor  # (n, V) what matrix products write and, at the end, read
    exps: tuple[Tensor, ...]  # (n, V) one a temperature; the last is `product` itself where the dtype allows it
    slope: Tensor | None  # (n, V) the soft cap's derivative, where it is needed

    @classmethod
    def make(cls, product: Product, rows: int, temperatures: int, slope: bool) -> Pool:
        first = product.ws[0].new_empty(rows, len(product.ws[0]))
        wide = [first.new_empty(first.shape, dtype=product.wide) for _ in range(temperatures - 1 + slope)]
        last = first if first.dtype == product.wide else torch.empty_like(first, dtype=product.wide)
        return cls(first, (*wide[slope:], last), wide[0] if slope else None)

    def rows(self, part: slice) -> Pool:
        slope = None if self.slope is None else self.slope[part]
        return Pool(self.product[part], tuple(e[part] for e in self.exps), slope)


class Split(NamedTuple):
    """The softmax of a chunk at one temperature, in categories."""

    e: Tensor  # (n, V) exp(z - top), 0 at the known ids
    top: Tensor  # (n, 1) the tail's highest z; 0 where there is no tail
    total: Tensor  # (n, 1) the sum of e
    known: Tensor  # (n, K) z of the known ids, -inf where a row has fewer

    def scores(self) -> Tensor:
        """c (n, K+1), the tail last."""
        return torch.cat([self.known, self.top + self.total.log()], 1)


def chunk_rows(product: Product, budget_mb: float, temperatures: int, slope: bool) -> int:
    """How many rows' logits fit the budget."""
    w = product.ws[0]
    narrow = 0 if w.dtype == product.wide else w.element_size()
    return max(1, int(budget_mb * 2**20 / (len(w) * (narrow + product.wide.itemsize * (temperatures + slope)))))


def blocks(chunk: Tensor) -> Iterator[slice]:
    """Rows that stay in the processor's cache while they are worked on; on a GPU the whole chunk."""
    rows = len(chunk)
    if chunk.device.type == "cpu":
        rows = int(CACHE_MB * 2**20 * torch.get_num_threads() / (chunk.shape[1] * chunk.element_size()))
    for i in range(0, len(chunk), max(1, rows)):
        yield slice(i, i + max(1, rows))


def fill_absent(ids: Tensor) -> Tensor:
    """ids (n, K) with each -1 replaced by its row's first id, so that they can index."""
    return torch.where(ids < 0, ids[:, :1], ids)


def multiply(part: Product, out: Tensor) -> None:
    """out (n, V) = scale (sum x w^T)"""
    for i, (x, w) in enumerate(zip(part.xs, part.ws, strict=True)):
        out.addmm_(x, w.t(), beta=float(i > 0), alpha=part.scale)


def finish(part: Product, pool: Pool) -> Tensor:
    """From the products to the logits, in pool.exps[-1]."""
    z = pool.exps[-1]
    if z.dtype != pool.product.dtype:
        z.copy_(pool.product)
    if part.bias is not None:
        z.add_(part.bias, alpha=part.scale)
    if part.softcap is not None:
        z.div_(part.softcap).tanh_()
        if pool.slope is not None:
            torch.mul(z, z, out=pool.slope).neg_().add_(1)
        z.mul_(part.softcap)
    return z


def split(part: Product, pool: Pool, ids: Tensor, temperatures: tuple[float, ...]) -> list[Split]:
    """The softmax of a chunk at each temperature, the last of which is made in place."""
    multiply(part, pool.product)
    safe, n = fill_absent(ids), len(ids)
    splits = [Split(e, e.new_empty(n, 1), e.new_empty(n, 1), e.new_empty(ids.shape)) for e in pool.exps]
    for b in blocks(pool.exps[-1]):
        z = finish(part, pool.rows(b))
        for s, temperature in zip(splits, temperatures, strict=True):
            e = z if s.e is pool.exps[-1] and temperature == 1 else torch.div(z, temperature, out=s.e[b])
            s.known[b] = e.gather(1, safe[b])
            e.scatter_(1, safe[b], -math.inf)
            # a row that names every id has no tail: its top is -inf, and -inf - -inf would be no number
            s.top[b] = e.amax(1, keepdim=True).nan_to_num_(neginf=0.0)
            s.total[b] = e.sub_(s.top[b]).exp_().sum(1, keepdim=True)
    for s in splits:
        s.known.masked_fill_(ids < 0, -math.inf)
    return splits


def gradient(splits: list[Split], gs: list[Tensor], temperatures: tuple[float, ...], ids: Tensor, pool: Pool) -> Tensor:
    """gs = dD/dc (n, K+1) at each temperature -> dD/d(scale (sum x w^T + bias)) (n, V), in pool.product."""
    gs = [g / t for g, t in zip(gs, temperatures, strict=True)]
    rests = [s.total.clamp_min(1) for s in splits]  # at least the highest's e^0, or there is no tail
    tails = [s.e.mul_(g[:, -1:] / rest) for s, g, rest in zip(splits, gs, rests, strict=True)]
    known = torch.stack(gs).sum(0)[:, :-1]
    dz = tails[-1] if len(tails) == 1 else tails[-1].add_(tails[0])
    dz.scatter_(1, fill_absent(ids), torch.where(ids < 0, known[:, :1], known))
    if pool.slope is not None:
        dz.mul_(pool.slope)
    return dz if dz.dtype == pool.product.dtype else pool.product.copy_(dz)


class ChunkView(NamedTuple):
    """A chunk at temperature 1 for those who only look."""

    split: Split  # its `e` is z - top in the tail, 0 at the known ids
    dot: Tensor  # (n, 1) sum of e (z - top) over the tail
    highest: Tensor  # (n, 1) the tail's most likely id


def split_view(part: Product, pool: Pool, ids: Tensor) -> ChunkView:
    """What `split` does, and a little more, with nothing left to take a gradient of."""
    multiply(part, pool.product)
    safe, z = fill_absent(ids), pool.exps[-1]
    s = Split(z, z.new_empty(len(z), 1), z.new_empty(len(z), 1), z.new_empty(ids.shape))
    view = ChunkView(s, torch.empty_like(s.top), ids.new_empty(len(z), 1))
    for b in blocks(z):
        z = finish(part, pool.rows(b))
        s.known[b] = z.gather(1, safe[b])
        top, view.highest[b] = z.scatter_(1, safe[b], -math.inf).max(1, keepdim=True)
        s.top[b] = top.nan_to_num_(neginf=0.0)
        e = z.sub_(s.top[b]).exp()
        s.total[b] = e.sum(1, keepdim=True)
        view.dot[b] = e.mul_(z.scatter_(1, safe[b], 0.0)).sum(1, keepdim=True)
    s.known.masked_fill_(ids < 0, -math.inf)
    return view


class Grads(NamedTuple):
    """Gradients while they grow; None where nobody wants one. Weights are summed over chunks in at least float32."""

    bias: Tensor | None
    xs: tuple[Tensor | None, ...]
    ws: tuple[Tensor | None, ...]

    def add(self, part: Product, rows: slice, dz: Tensor) -> None:
        """dz (n, V) of the chunk `rows`. The first chunk writes, the others add."""
        beta = float(rows.start > 0)
        for x, w, dx, dw in zip(part.xs, part.ws, self.xs, self.ws, strict=True):
            if dx is not None:
                add_product(dx[rows], dz, w, 0.0, part.scale)
            if dw is not None:
                add_product(dw, dz.t(), x, beta, part.scale)
        if self.bias is not None:
            total = dz.sum(0, dtype=self.bias.dtype).mul_(part.scale)
            self.bias.add_(total) if beta else self.bias.copy_(total)


def add_product(out: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float) -> None:
    """out = beta out + alpha a b, without a second `out` where the dtypes differ."""
    if out.dtype == a.dtype:
        out.addmm_(a, b, beta=beta, alpha=alpha)
        return
    for i in range(0, len(out), PIECE):
        piece, product = out[i : i + PIECE], torch.mm(a[i : i + PIECE], b)
        piece.add_(product, alpha=alpha) if beta else piece.copy_(product).mul_(alpha)


class Pricing(Protocol):
    """What rows are priced by."""

    ids: Tensor  # (N, K)
    weight: Tensor  # (N,)
    span: Tensor | None  # (N,)

    def rows(self, part: slice) -> Pricing: ...

    def temperatures(self) -> tuple[float, ...]: ...

    def price(self, log_qs: list[Tensor]) -> Tensor: ...


class Distill(torch.autograd.Function):
    """The sum of weight * price, and price; the gradients of the factors are made on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        terms: Pricing,
        shape: tuple[float, float | None],
        budget_mb: float,
        train: bool,
        bias: Tensor | None,
        *factors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        product, temperatures = as_product(bias, factors, *shape), terms.temperatures()
        inputs = (bias, *factors)
        wanted = [x is not None and x.requires_grad and train for x in inputs]
        slope = product.softcap is not None and any(wanted)
        parts = chunks(len(terms.ids), chunk_rows(product, budget_mb, len(temperatures), slope), terms.span)
        pool = Pool.make(product, max(p.stop - p.start for p in parts), len(temperatures), slope)
        grads = _grads(product, inputs, wanted, len(parts) > 1)
        price = torch.empty(len(terms.ids), dtype=product.wide, device=terms.ids.device)
        for rows in parts:
            part, room = product.rows(rows), pool.rows(slice(rows.stop - rows.start))
            price[rows], dz = _pay(part, terms.rows(rows), temperatures, room, any(wanted))
            if dz is not None:
                grads.add(part, rows, dz)
        ctx.mark_non_differentiable(price)
        flat = (grads.bias, *grads.xs, *grads.ws)
        ctx.grads = [g if g is None or x is None else g.to(x.dtype) for g, x in zip(flat, inputs, strict=True)]
        return (price * terms.weight).sum(), price

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grads, ctx.grads = ctx.grads, None  # nobody else holds them, so autograd keeps them as they are
        if grads is None:
            raise RuntimeError("the gradient of distill is made once and was taken: retain_graph has nothing to retain")
        # on a GPU to look at the scale would be to wait for everything before it
        if scale.device.type != "cpu" or scale != 1:
            for g in grads:
                if g is not None:
                    g.mul_(scale)
        return (None, None, None, None, *grads)


def _pay(
    part: Product, terms: Pricing, temperatures: tuple[float, ...], pool: Pool, train: bool
) -> tuple[Tensor, Tensor | None]:
    """A chunk's price (n,) and dD/dz (n, V), weighted."""
    splits = split(part, pool, terms.ids, temperatures)
    with torch.enable_grad():
        scores = [s.scores().requires_grad_() for s in splits]
        price = terms.price([c.log_softmax(1).clamp_min(EMPTY) for c in scores])
        if not train:
            return price.detach(), None
        small = torch.autograd.grad((price * terms.weight).sum(), scores, allow_unused=True, materialize_grads=True)
    return price.detach(), gradient(splits, list(small), temperatures, terms.ids, pool)


def _grads(product: Product, inputs: tuple[Tensor | None, ...], wanted: list[bool], many: bool) -> Grads:
    """Room for each gradient that is wanted; weights that are summed over many chunks get wide ones."""
    half = len(product.xs)
    wide = [True] + [False] * half + [many] * half
    rooms = [
        torch.empty_like(x, dtype=product.wide if w else x.dtype) if want and x is not None else None
        for x, want, w in zip(inputs, wanted, wide, strict=True)
    ]
    return Grads(rooms[0], tuple(rooms[1 : 1 + half]), tuple(rooms[1 + half :]))
