"""The head's chunked kernel against plain PyTorch on the whole softmax: values, gradients, memory, bits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_loss import LOSSES
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ekd.models.head import EMPTY, TAILS, Adapter, Head, distill, stats

BIG = 1024.0  # megabytes: everything in one chunk
Loss = Callable[[Tensor, Tensor], Tensor]
FEW = {name: LOSSES[name] for name in ("forward_kl", "reverse_kl", "jsd", "tvd")}


class Case(NamedTuple):
    hidden: Tensor
    head: Head
    ids: Tensor
    log_p: Tensor
    weight: Tensor
    unmatched: Tensor

    def leaves(self) -> list[Tensor]:
        flat = [self.hidden, self.head.weight, self.head.bias, *(t for a in self.head.adapters for t in a[:2])]
        return [x for x in flat if x is not None]

    def to(self, dtype: torch.dtype) -> Case:
        def cast(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.detach().to(dtype).requires_grad_()

        adapters = tuple(Adapter(cast(a.down), cast(a.up)) for a in self.head.adapters)
        head = self.head._replace(weight=cast(self.head.weight), bias=cast(self.head.bias), adapters=adapters)
        return self._replace(hidden=cast(self.hidden), head=head)


def case(
    seed=0, n=13, h=8, v=50, k=5, *, size=1.0, ragged=True, unmatched=True, bias=False, rank=0, scale=1.0, softcap=None
):
    """Random rows of a teacher with the full distribution; some name fewer ids, some are unmatched, some sampled."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    log = normal(n, v).mul(2).log_softmax(1)
    ids = torch.rand(n, v, generator=g).argsort(1)[:, :k]
    if ragged and n > 3 and k > 2:
        ids[1, 2:] = -1
    log_p = log.gather(1, ids.clamp_min(0)).masked_fill(ids < 0, -math.inf)
    tail = torch.ones(n, v).scatter(1, torch.where(ids < 0, ids[:, :1], ids), 0.0).double()
    log_p = torch.cat([log_p, (log.exp() * tail).sum(1, keepdim=True).log()], 1)
    if ragged and n > 3 and k > 2:
        log_p[2] = torch.tensor([0.0, 3.0, *[1.0] * (k - 2), 0.0]).div(k + 1).log()  # sampled: its token was not drawn
    is_hard = torch.zeros(n, dtype=torch.bool)
    if unmatched and n > 4:
        is_hard[3], ids[3, 1:], log_p[3] = True, -1, torch.tensor([0.0] + [-math.inf] * k)
    adapters = tuple(Adapter(normal(r, h), normal(v, r)) for r in (rank, 1) if rank)
    head = Head(normal(v, h) * size, normal(v) if bias else None, scale, softcap, adapters)
    made = Case(normal(n, h), head, ids, log_p, torch.rand(n, generator=g, dtype=torch.float64), is_hard)
    return made.to(torch.float64)


def logits(c: Case) -> Tensor:
    z = F.linear(c.hidden, c.head.weight, c.head.bias)
    for a in c.head.adapters:
        z = z + c.hidden @ a.down.t() @ a.up.t()
    z = z.to(torch.promote_types(z.dtype, torch.float32)) * c.head.scale
    return z if c.head.softcap is None else c.head.softcap * torch.tanh(z / c.head.softcap)


def categories(z: Tensor, ids: Tensor) -> Tensor:
    """ln q (n, K+1) the plain way: the whole log_softmax, and the tail by logsumexp."""
    log_q = z.log_softmax(1)
    safe = torch.where(ids < 0, ids[:, :1], ids)
    tail = log_q.scatter(1, safe, -math.inf).logsumexp(1, keepdim=True)
    return torch.cat([log_q.gather(1, safe).masked_fill(ids < 0, EMPTY), tail], 1).clamp_min(EMPTY)


def dense(c: Case, loss: Loss, temperature=1.0, alpha_ce=0.0, tail="bucket") -> tuple[Tensor, Tensor]:
    z = logits(c)
    ce = -categories(z, c.ids)[:, 0]
    log_p, log_q = c.log_p.to(z.dtype).clamp_min(EMPTY), categories(z / temperature, c.ids)
    if tail != "bucket":
        log_p, log_q = (F.pad(x[:, :-1], (0, 1), value=EMPTY) for x in (log_p, log_q))
    if tail == "renormalise":
        log_p, log_q = (x.log_softmax(1).clamp_min(EMPTY) for x in (log_p, log_q))
    soft = temperature**2 * loss(log_p[~c.unmatched], log_q[~c.unmatched])
    price = ce.masked_scatter(~c.unmatched, (1 - alpha_ce) * soft + alpha_ce * ce[~c.unmatched])
    return (price * c.weight.to(price.dtype)).sum(), price


def ours(c: Case, loss: Loss, budget_mb: float = BIG, **options) -> tuple[Tensor, Tensor]:
    return distill(
        c.hidden, c.head, c.ids, c.log_p, c.weight, loss, unmatched=c.unmatched, budget_mb=budget_mb, **options
    )


def rows_mb(rows: float, v: int, size: int = 8) -> float:
    return rows * v * size / 2**20


def both(c: Case, loss: Loss, budget_mb: float = BIG, **options) -> None:
    total, price = ours(c, loss, budget_mb, **options)
    want_total, want_price = dense(c, loss, **options)
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(price, want_price.detach(), **close)
    torch.testing.assert_close(total, want_total, **close)
    want = torch.autograd.grad(want_total, c.leaves())
    for have, expected in zip(torch.autograd.grad(total, c.leaves()), want, strict=True):
        torch.testing.assert_close(have, expected, **close)


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("k", [1, 20, 50])
def test_every_loss_equals_dense_autograd(name: str, k: int) -> None:
    both(case(n=9, k=k, ragged=name not in ("reverse_kl", "todi")), LOSSES[name], rows_mb(4, 50))


@pytest.mark.parametrize("name", sorted(FEW))
@pytest.mark.parametrize("tail", TAILS)
def test_temperature_cross_entropy_and_tails(name: str, tail: str) -> None:
    for temperature, alpha_ce in itertools.product((1.0, 2.0, 0.5), (0.0, 0.3, 1.0)):
        c = case(k=5, ragged=name != "reverse_kl")
        both(c, FEW[name], rows_mb(5, 50), temperature=temperature, alpha_ce=alpha_ce, tail=tail)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rank", [0, 3])
def test_bias_scale_soft_cap_and_adapters(bias: bool, rank: int) -> None:
    for scale, softcap, temperature in itertools.product((1.0, 0.25), (None, 3.0), (1.0, 2.0)):
        c = case(bias=bias, rank=rank, scale=scale, softcap=softcap)
        both(c, FEW["forward_kl"], rows_mb(7, 50), temperature=temperature, alpha_ce=0.2)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 9999), st.integers(1, 17), st.integers(1, 9), st.integers(2, 90), st.floats(0.5, 20), st.data())
def test_any_shape_and_any_chunk(seed: int, n: int, h: int, v: int, rows: float, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, v))
    both(case(seed, n, h, v, k), FEW["forward_kl"], rows_mb(rows, v))


@pytest.mark.parametrize("size", [30.0, 3e3])  # logits to +-100, +-1e4
@pytest.mark.parametrize("name", sorted(FEW))
def test_extreme_logits(name: str, size: float) -> None:
    c = case(size=size, ragged=False, unmatched=False)
    both(c, FEW[name], rows_mb(4, 50))


def test_a_tail_that_holds_almost_nothing_keeps_its_gradient() -> None:
    """q of the tail is e^-200, far below what 1 - sum q can say, yet the teacher puts 1 in 1000 there."""
    z = torch.full((1, 8), -200.0)
    z[0, :2] = torch.tensor([1.0, 0.0])
    log_p = torch.tensor([[0.5, 0.499, 0.001]]).log()
    weight = z.t().contiguous().requires_grad_()
    total, price = distill(
        torch.ones(1, 1), Head(weight), torch.tensor([[0, 1]]), log_p, torch.ones(1), LOSSES["forward_kl"], budget_mb=1
    )
    total.backward()
    log_q = torch.tensor([[1.0, 0.0, math.log(6) - 200]]).log_softmax(1)
    torch.testing.assert_close(price, LOSSES["forward_kl"](log_p, log_q))
    torch.testing.assert_close(weight.grad[2:, 0], torch.full((6,), -0.001 / 6))


def again(total: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """gradcheck asks a graph several times, but distill answers once: this makes a new graph for each question."""

    class Again(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            ctx.save_for_backward(*inputs)
            return total(*inputs)

        @staticmethod
        def backward(ctx, above):
            with torch.enable_grad():
                inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
                return torch.autograd.grad(total(*inputs), inputs, above)

    return Again.apply


@pytest.mark.parametrize("options", [{}, {"temperature": 2.0, "alpha_ce": 0.3}, {"tail": "renormalise"}])
def test_gradcheck(options: dict) -> None:
    c = case(n=4, h=3, v=9, k=3, bias=True, rank=2, softcap=4.0, scale=0.7)

    def total(hidden, weight, bias, down, up):
        head = c.head._replace(weight=weight, bias=bias, adapters=(Adapter(down, up),))
        return ours(c._replace(hidden=hidden, head=head), FEW["jsd"], rows_mb(3, 9), **options)[0]

    assert torch.autograd.gradcheck(again(total), (*c.leaves()[:3], *c.head.adapters[0][:2]))


def error(have: list[Tensor], want: list[Tensor]) -> list[float]:
    """Distance over length, for each gradient."""
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(have, want, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("k", [1, 20, 64, 2000])
@pytest.mark.parametrize("size", [0.3, 10.0])
def test_no_further_from_float64_than_plain_pytorch(dtype: torch.dtype, k: int, size: float) -> None:
    c = case(n=96, h=32, v=2000, k=k, size=size, ragged=False).to(dtype)
    exact = c.to(torch.float64)
    for loss in FEW.values():
        want_total, want_price = dense(exact, loss)
        want = [want_price.detach(), *torch.autograd.grad(want_total, exact.leaves())]
        plain_total, plain_price = dense(c, loss)
        plain = error([plain_price.detach(), *torch.autograd.grad(plain_total, c.leaves())], want)
        for rows in (20, 96):
            total, price = ours(c, loss, rows_mb(rows, 2000, 4 + 2 * (dtype != torch.float32)))
            mine = error([price, *torch.autograd.grad(total, c.leaves())], want)
            # A 16-bit partial product is rounded once a chunk and their sum once more: sqrt(2) at worst, for dW alone.
            bounds = [1.05, 1.05, 1.5 if dtype != torch.float32 and rows < 96 else 1.05]
            assert all(m <= b * p + 1e-7 for m, b, p in zip(mine, bounds, plain, strict=True)), (mine, plain)


@pytest.mark.parametrize("v", [50, 2000])
def test_stats(v: int) -> None:
    for options in ({}, {"bias": True, "scale": 0.5, "softcap": 3.0, "rank": 2}, {"size": 3e3}):
        for k in (1, 5, v):
            c = case(v=v, k=k, **options)
            seen = stats(c.hidden, c.head, c.ids, budget_mb=rows_mb(4, v))
            z = logits(c).detach()
            log = z.log_softmax(1)
            torch.testing.assert_close(seen.entropy, -(log.exp() * log).sum(1))
            torch.testing.assert_close(seen.log_q, categories(z, c.ids))
            torch.testing.assert_close(seen.argmax, z.argmax(1))
            assert seen.top.shape == (len(z), 0), "nobody asked"
            more = stats(c.hidden, c.head, c.ids, budget_mb=rows_mb(4, v), top=7)
            assert torch.equal(more.top, z.topk(7).indices)
            torch.testing.assert_close(more.log_top, log.topk(7).values)
            assert all(torch.equal(a, b) for a, b in zip(more[:3], seen[:3], strict=True))


def test_two_runs_give_the_same_bits() -> None:
    c = case(n=64, h=16, v=3000, k=20).to(torch.float32)

    def run() -> list[Tensor]:
        total, price = ours(c, FEW["forward_kl"], 0.2)
        return [total, price, *torch.autograd.grad(total, c.leaves()), *stats(c.hidden, c.head, c.ids, budget_mb=0.2)]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_nothing_chosen_gives_zero_and_gradients_of_zero() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        c = case(bias=True, rank=2).to(dtype)
        none = Case(c.hidden[:0], c.head, c.ids[:0], c.log_p[:0], c.weight[:0], c.unmatched[:0])
        total, price = ours(none, FEW["forward_kl"])
        total.backward()
        assert total == 0 and price.shape == (0,)
        assert all(torch.equal(x.grad, torch.zeros_like(x)) for x in c.leaves())
        assert [len(x) for x in stats(none.hidden, c.head, none.ids, budget_mb=1, top=3)] == [0, 0, 0, 0, 0]


def test_unmatched_rows_cost_cross_entropy_whatever_the_loss() -> None:
    c = case(unmatched=True)
    for temperature in (1.0, 3.0):
        _, price = ours(c, FEW["tvd"], temperature=temperature)
        expected = F.cross_entropy(logits(c)[3], c.ids[3, 0])
        torch.testing.assert_close(price[3], expected.detach())


def test_each_row_may_have_a_share_of_cross_entropy_of_its_own() -> None:
    c = case(unmatched=True)
    share = torch.linspace(0, 1, len(c.hidden), dtype=torch.float64)
    for temperature in (1.0, 3.0):
        for mb in (BIG, rows_mb(4, 50)):
            total, price = ours(c, FEW["jsd"], mb, temperature=temperature, alpha_ce=share)
            grads = torch.autograd.grad(total, c.leaves())
            soft, hard = (dense(c, FEW["jsd"], temperature=temperature, alpha_ce=a) for a in (0.0, 1.0))
            expected = ((1 - share) * soft[1] + share * hard[1]) * c.weight
            torch.testing.assert_close(price * c.weight, expected.detach())
            for one, other in zip(grads, torch.autograd.grad(expected.sum(), c.leaves()), strict=True):
                torch.testing.assert_close(one, other)
    with pytest.raises(ValueError, match="one for each of 13 rows"):
        ours(c, FEW["jsd"], alpha_ce=share[:5])
    with pytest.raises(ValueError, match="alpha_ce is 0 to 1"):
        ours(c, FEW["jsd"], alpha_ce=share * 2)


def test_weights_are_linear_and_carry_no_gradient() -> None:
    c = case()
    weight = c.weight.clone().requires_grad_()
    total, price = ours(c._replace(weight=weight), FEW["forward_kl"])
    torch.testing.assert_close(total, (price * c.weight).sum())
    total.backward()
    assert weight.grad is None and not price.requires_grad


def test_tied_embeddings_get_both_gradients() -> None:
    c = case(k=5)

    def run(price: Callable[[Case, Loss], tuple[Tensor, Tensor]]) -> Tensor:
        weight = c.head.weight.detach().clone().requires_grad_()
        tied = c._replace(hidden=F.embedding(c.ids[:, 0], weight), head=Head(weight))
        price(tied, FEW["forward_kl"])[0].backward()
        assert weight.grad is not None
        return weight.grad

    torch.testing.assert_close(run(ours), run(dense))


class Largest(TorchDispatchMode):
    """Remembers how much the largest tensor of a computation held, and which were as large as the weight."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight, self.numel, self.weights = weight, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() != self.weight.untyped_storage().data_ptr():
                if x.numel() == self.weight.numel():
                    self.weights.add(x.untyped_storage().data_ptr())
                else:
                    self.numel = max(self.numel, x.numel())
        return out


@pytest.mark.parametrize("frozen", [False, True])
def test_no_tensor_exceeds_the_budget_and_a_frozen_head_has_no_gradient(frozen: bool) -> None:
    c = case(n=200, h=24, v=1000, k=20, ragged=False).to(torch.float32)
    c.head.weight.requires_grad_(not frozen)
    budget = rows_mb(16, 1000, 4)
    with Largest(c.head.weight) as seen:
        total, _ = ours(c, FEW["forward_kl"], budget)
        total.backward()
    assert seen.numel <= 16 * 1000
    assert len(seen.weights) == (0 if frozen else 1)  # the gradient itself, no copy of it
    assert (c.head.weight.grad is None) == frozen


def test_autograd_keeps_the_gradient_that_was_made_without_a_copy() -> None:
    c = case(n=40, h=24, v=1000).to(torch.float32)
    with Largest(c.head.weight) as seen:
        ours(c, FEW["forward_kl"], rows_mb(9, 1000, 4))[0].backward()
    assert seen.weights == {c.head.weight.grad.untyped_storage().data_ptr()}


def test_gradients_scale_with_what_comes_from_above_and_are_given_once() -> None:
    c = case()
    total, _ = ours(c, FEW["forward_kl"])
    (3 * total).backward(retain_graph=True)
    want = torch.autograd.grad(3 * dense(c, FEW["forward_kl"])[0], c.leaves())
    for leaf, expected in zip(c.leaves(), want, strict=True):
        torch.testing.assert_close(leaf.grad, expected)
    with pytest.raises(RuntimeError, match="made once"):
        total.backward()


def test_without_grad_there_is_a_price_and_no_gradient() -> None:
    c = case()
    with torch.no_grad():
        total, price = ours(c, FEW["forward_kl"])
    torch.testing.assert_close(price, dense(c, FEW["forward_kl"])[1].detach())
    assert not total.requires_grad


def test_autocast_multiplies_in_its_dtype_and_sums_in_the_weights() -> None:
    c = case(n=64, h=32, v=500, k=20).to(torch.float32)
    want = torch.autograd.grad(dense(c, FEW["forward_kl"])[0], c.leaves())
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = ours(c, FEW["forward_kl"], 0.05)
    have = torch.autograd.grad(total, c.leaves())
    assert [x.dtype for x in have] == [torch.float32] * 2
    assert all(0 < e < 0.02 for e in error(have, [w.double() for w in want]))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tail": "drop"}, "tail is one of bucket"),
        ({"temperature": 0.0}, "temperature"),
        ({"alpha_ce": 1.5}, "alpha_ce"),
        ({"budget_mb": 0}, "budget_mb"),
        ({"teacher_ids": torch.full((13, 5), 50)}, "teacher id 50 is outside"),
        ({"teacher_ids": torch.full((13, 5), -1)}, "teacher id -1 is outside"),
        ({"teacher_logprobs": torch.zeros(13, 5)}, r"\(13, 6\)"),
        ({"weight": torch.ones(12)}, "13 rows"),
    ],
)
def test_bad_values_are_refused_in_a_sentence(change: dict, says: str) -> None:
    c = case()
    values = {"teacher_ids": c.ids, "teacher_logprobs": c.log_p, "weight": c.weight, "loss": FEW["tvd"], "budget_mb": 1}
    with pytest.raises(ValueError, match=says):
        distill(c.hidden, c.head, **{**values, **change})
