"""Every loss in conf/loss, against its formula written the slow way, and against dense autograd."""

import math
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ekd.models.head import EMPTY, Head, distill
from ekd.types import Loss, NeedsDensity, NeedsOwnText

CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(path.stem for path in (CONF / "loss").glob("*.yaml"))
SEEDS = st.integers(0, 2**31)


def build(name: str, *overrides: str) -> Loss:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(None, [f"+loss={name}", *(f"loss.{o}" for o in overrides)])
    return instantiate(config.loss, _convert_="all")


LOSSES = {name: build(name) for name in NAMES}
REWARDS = {"policy_gradient", "fixed_advantage"}  # of the sampled token: no distance, and of either sign
DIVERGENCES = sorted(set(NAMES) - REWARDS - {"cross_entropy"})  # the one that does not look at the teacher


def pair(seed: int, rows: int = 7, k: int = 5, spread: float = 3.0, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    """log p and log q (rows, k+1); some rows name fewer ids, so that both have empty categories."""
    source = torch.Generator().manual_seed(seed)
    empty = torch.rand(rows, k + 1, generator=source) < 0.2
    empty[:, 0] = empty[:, -1] = False
    logits = spread * torch.randn(2, rows, k + 1, generator=source, dtype=dtype).masked_fill(empty, -math.inf)
    log_p, log_q = torch.log_softmax(logits, -1).clamp(min=EMPTY)
    return log_p, log_q


def slope(loss: Loss, log_p: Tensor, log_q: Tensor) -> Tensor:
    """dD/d logits of the k+1 categories, through their softmax."""
    z = log_q.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(log_p, torch.log_softmax(z, -1).clamp(min=EMPTY)).sum(), z)
    return grad


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_finite_unreduced_and_never_negative(name: str, seed: int) -> None:
    log_p, log_q = pair(seed, spread=20.0, dtype=torch.float32)
    log_q.requires_grad_()
    price = LOSSES[name](log_p, log_q)
    (grad,) = torch.autograd.grad(price.sum(), log_q)
    assert price.shape == (7,)
    assert price.isfinite().all() and grad.isfinite().all()
    assert name in REWARDS or (price >= -1e-4 * (1 + price.abs())).all()
    torch.testing.assert_close(price[2:5], LOSSES[name](log_p[2:5], log_q[2:5]))  # no row knows of another
    assert LOSSES[name](log_p[:0], log_q[:0]).shape == (0,)


@pytest.mark.parametrize("name", DIVERGENCES)
@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_zero_with_zero_gradient_where_both_agree(name: str, seed: int) -> None:
    z = pair(seed)[0].requires_grad_()
    log_q = torch.log_softmax(z, -1).clamp(min=EMPTY)
    price = LOSSES[name](log_q.detach(), log_q)
    (grad,) = torch.autograd.grad(price.sum(), z)
    assert price.abs().max() < 1e-12
    assert grad.abs().max() < 1e-12


@pytest.mark.parametrize("name", DIVERGENCES)
def test_positive_and_sloped_where_they_differ(name: str) -> None:
    log_p, log_q = pair(1)
    assert (LOSSES[name](log_p, log_q) > 1e-4).all()
    assert (slope(LOSSES[name], log_p, log_q).abs().amax(-1) > 1e-5).all()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("name", NAMES)
def test_the_heads_gradient_is_dense_autograds(name: str, temperature: float) -> None:
    source = torch.Generator().manual_seed(3)
    rows, vocab, k = 6, 11, 4
    ids = torch.stack([torch.randperm(vocab, generator=source)[:k] for _ in range(rows)])
    log_p, _ = pair(5, rows, k)
    ids = ids.masked_fill(log_p[:, :-1] <= EMPTY, -1)
    hidden = torch.randn(rows, vocab, generator=source, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(rows, generator=source, dtype=torch.float64) + 0.1
    head = Head(torch.eye(vocab, dtype=torch.float64))
    total, price = distill(hidden, head, ids, log_p, weight, LOSSES[name], temperature=temperature, budget_mb=1)
    (grad,) = torch.autograd.grad(total, hidden)

    q = torch.softmax(hidden / temperature, -1)
    named = torch.zeros(rows, vocab, dtype=torch.bool)
    named[torch.arange(rows)[:, None].expand_as(ids)[ids >= 0], ids[ids >= 0]] = True
    known = q.gather(1, ids.clamp(min=0)).log().masked_fill(ids < 0, EMPTY)
    log_q = torch.cat([known, q.masked_fill(named, 0).sum(-1, keepdim=True).log()], 1)
    dense = temperature**2 * LOSSES[name](log_p, log_q)
    (expected,) = torch.autograd.grad((weight * dense).sum(), hidden)
    torch.testing.assert_close(price, dense.detach(), atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(grad, expected, atol=1e-10, rtol=1e-8)


# ------------------------------------------------------------------ the formulas of METHODS, one probability at a time


def kl(a: list[float], b: list[float]) -> float:
    return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x > 0)


def gap(p: list[float], q: list[float]) -> list[float]:
    return [abs(x - y) for x, y in zip(p, q, strict=True)]


def mixed(p: list[float], q: list[float], share: float) -> list[float]:
    return [share * x + (1 - share) * y for x, y in zip(p, q, strict=True)]


def adaptive_kl(p: list[float], q: list[float]) -> float:
    head: set[int] = set()
    for j in sorted(range(len(p) - 1), key=lambda j: -p[j]):
        if sum(p[i] for i in head) < 0.5:
            head.add(j)
    inside = sum(gap(p, q)[j] for j in head)
    a = inside / sum(gap(p, q))
    return a * kl(p, q) + (1 - a) * kl(q, p)


def entropy_gated(p: list[float], q: list[float]) -> float:
    entropy = -sum(x * math.log(x) for x in p if x > 0)
    return kl(q, p) + (kl(p, q) if entropy >= 0.8 else 0.0)


def dkd(p: list[float], q: list[float]) -> float:
    first = kl([p[0], 1 - p[0]], [q[0], 1 - q[0]])
    return first + 8 * kl([x / (1 - p[0]) for x in p[1:]], [x / (1 - q[0]) for x in q[1:]])


def alpha_beta(p: list[float], q: list[float], a: float = 0.2, b: float = 0.7) -> float:
    terms = [x**a * y**b - a / (a + b) * x ** (a + b) - b / (a + b) * y ** (a + b) for x, y in zip(p, q, strict=True)]
    return -sum(terms) / (a * b)


def uld(p: list[float], q: list[float]) -> float:
    return sum(gap(sorted(p[:-1]), sorted(q[:-1]))) + abs(p[-1] - q[-1])


def span_kl(p: list[float], q: list[float], came: int = 1, tau: float = 100) -> float:
    """p, q: of the rows of a span, what came first; 1e-6 nats below, as the class says."""
    one, other = (math.prod(side[:came]) ** (1 / tau) * math.exp(-1e-6) for side in (p, q))
    return tau * kl([one, 1 - one], [other, 1 - other])


REFERENCES = {
    "forward_kl": kl,
    "reverse_kl": lambda p, q: kl(q, p),
    "cross_entropy": lambda p, q: -math.log(q[0]),
    "jsd": lambda p, q: (kl(p, mixed(p, q, 0.5)) + kl(q, mixed(p, q, 0.5))) / 2,
    "skew_kl": lambda p, q: kl(p, mixed(p, q, 0.1)),
    "skew_reverse_kl": lambda p, q: kl(q, mixed(p, q, 0.9)),
    "tvd": lambda p, q: sum(gap(p, q)) / 2,
    "adaptive_kl": adaptive_kl,
    "entropy_gated": entropy_gated,
    "dkd": dkd,
    "alpha_beta": alpha_beta,
    "todi": lambda p, q: kl(p, q) + kl(q, p),  # its weights make the value Jeffreys' divergence
    "uld": uld,
    "span_kl": span_kl,
    "weighted": lambda p, q: (kl(p, q) + kl(q, p)) / 2,
    "soft_clamp": lambda p, q: kl(p, q) if kl(p, q) <= 5 else 5 * (1 + math.log(kl(p, q) / 5)),
}


@pytest.mark.parametrize("name", sorted(REFERENCES))
@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_agrees_with_the_formula(name: str, seed: int) -> None:
    log_p, log_q = pair(seed)
    expected = [REFERENCES[name](p, q) for p, q in zip(log_p.exp().tolist(), log_q.exp().tolist(), strict=True)]
    actual = LOSSES[name](log_p, log_q)
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), atol=1e-9, rtol=1e-8)


# ------------------------------------------------------------------------------------------------ limits and identities

LIMITS = [
    ("jsd", ("beta=1e-10",), lambda d: d / 1e-10, ("forward_kl",)),
    ("jsd", ("beta=0.9999999999",), lambda d: d / 1e-10, ("reverse_kl",)),
    ("skew_kl", ("alpha=0",), lambda d: d, ("forward_kl",)),
    ("skew_reverse_kl", ("alpha=0",), lambda d: d, ("reverse_kl",)),
    ("alpha_beta", ("alpha=1", "beta=1e-6"), lambda d: d, ("forward_kl",)),
    ("alpha_beta", ("alpha=1e-6", "beta=1"), lambda d: d, ("reverse_kl",)),
    ("entropy_gated", ("tau=1e9",), lambda d: d, ("reverse_kl",)),
    ("entropy_gated", ("tau=0",), lambda d: d, ("forward_kl", "reverse_kl")),
    ("adaptive_kl", ("head=0.999999999999",), lambda d: d, ()),
]


@pytest.mark.parametrize(("name", "overrides", "scale", "neighbours"), LIMITS)
def test_limits_give_the_neighbour(name, overrides, scale, neighbours) -> None:
    log_p, log_q = pair(11, rows=40)
    near = scale(build(name, *overrides)(log_p, log_q))
    if not neighbours:  # the head is everything that has a name: a is the share of the gap outside the tail
        gaps = (log_p.exp() - log_q.exp()).abs()
        a = gaps[:, :-1].sum(-1) / gaps.sum(-1)
        expected = a * LOSSES["forward_kl"](log_p, log_q) + (1 - a) * LOSSES["reverse_kl"](log_p, log_q)
    else:
        expected = sum(LOSSES[n](log_p, log_q) for n in neighbours)
    torch.testing.assert_close(near, expected, atol=1e-4, rtol=1e-4)


def test_dkd_at_its_own_weights_is_kl() -> None:
    """KL(p, q) = first + (1 - p_y) second, for each row."""
    log_p, log_q = pair(13, rows=40)
    first = build("dkd", "alpha=1", "beta=0")(log_p, log_q)
    second = build("dkd", "alpha=0", "beta=1")(log_p, log_q)
    torch.testing.assert_close(first + (1 - log_p[:, 0].exp()) * second, LOSSES["forward_kl"](log_p, log_q))


def test_dkd_of_a_certain_teacher_has_only_its_first_part() -> None:
    log_p = torch.tensor([[0.0, EMPTY, EMPTY]])
    log_q = torch.log_softmax(torch.tensor([[1.0, 0.5, 0.0]]), -1).requires_grad_()
    (grad,) = torch.autograd.grad(build("dkd", "alpha=0", "beta=1")(log_p, log_q).sum(), log_q)
    torch.testing.assert_close(LOSSES["dkd"](log_p, log_q), -log_q[:, 0])
    assert torch.equal(grad, torch.zeros_like(grad))


@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_bounded_losses_keep_their_bounds(seed: int) -> None:
    log_p, log_q = pair(seed, spread=20.0)
    assert (LOSSES["tvd"](log_p, log_q) <= 1 + 1e-12).all()
    assert (LOSSES["jsd"](log_p, log_q) <= math.log(2) + 1e-12).all()
    assert (LOSSES["skew_kl"](log_p, log_q) <= -math.log(0.1) + 1e-12).all()
    assert (LOSSES["skew_reverse_kl"](log_p, log_q) <= -math.log(0.1) + 1e-12).all()


def test_uld_forgets_which_token_is_which() -> None:
    log_p, _ = pair(23)
    log_q = log_p[:, [2, 0, 3, 1, 4, 5]]
    assert LOSSES["uld"](log_p, log_q).max() < 1e-12
    assert (LOSSES["forward_kl"](log_p, log_q) > 1e-3).all()


def test_symmetric_losses_are_symmetric() -> None:
    log_p, log_q = pair(17)
    for name in ("jsd", "tvd", "todi"):
        torch.testing.assert_close(LOSSES[name](log_p, log_q), LOSSES[name](log_q, log_p))


def test_any_loss_joins_the_mix_from_the_command_line() -> None:
    log_p, log_q = pair(19)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        extra = ["+loss@loss.losses.tvd=tvd", "+loss.weights.tvd=2", "loss.weights.forward_kl=0"]
        config = compose(None, ["+loss=weighted", *extra])
    mix = instantiate(config.loss, _convert_="all")
    expected = 0.5 * LOSSES["reverse_kl"](log_p, log_q) + 2 * LOSSES["tvd"](log_p, log_q)
    torch.testing.assert_close(mix(log_p, log_q), expected)


@pytest.mark.parametrize(
    ("name", "override", "says"),
    [
        ("jsd", "beta=0", "beta=0"),
        ("jsd", "beta=1", "beta=1"),
        ("skew_kl", "alpha=1", "alpha=1"),
        ("skew_reverse_kl", "alpha=-0.1", "alpha=-0.1"),
        ("adaptive_kl", "head=1", "head=1"),
        ("entropy_gated", "tau=-1", "tau=-1"),
        ("dkd", "beta=-1", "beta=-1"),
        ("alpha_beta", "alpha=0", "alpha=0"),
        ("weighted", "weights.forward_kl=-1", "-1"),
        ("soft_clamp", "limit=0", "limit=0"),
        ("span_kl", "tau=0", "tau=0"),
    ],
)
def test_a_value_out_of_range_is_named(name: str, override: str, says: str) -> None:
    with pytest.raises(Exception, match=says):
        build(name, override)


@pytest.mark.parametrize("inner", ["forward_kl", "reverse_kl", "policy_gradient"])
def test_a_soft_clamp_shrinks_the_slope_of_extreme_prices_and_no_other(inner: str) -> None:
    log_p, log_q = pair(29, rows=60)
    clamped = mixed_in("soft_clamp", inner, "limit=0.5")
    price = LOSSES[inner](log_p, log_q)
    factor = (0.5 / price.abs()).clamp(max=1)
    assert (factor < 1).any() and (factor == 1).any()
    torch.testing.assert_close(slope(clamped, log_p, log_q), factor[:, None] * slope(LOSSES[inner], log_p, log_q))
    assert isinstance(clamped, NeedsOwnText) and clamped.needs_own_text == (inner == "policy_gradient")
    assert isinstance(clamped, NeedsDensity) and clamped.needs_density == (inner != "forward_kl")


def mixed_in(name: str, inner: str, *overrides: str) -> Loss:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(None, [f"+loss={name}", f"loss@loss.of={inner}", *(f"loss.{o}" for o in overrides)])
    return instantiate(config.loss, _convert_="all")


@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_the_policy_gradient_is_on_average_that_of_the_reverse_kl(seed: int) -> None:
    """Over every token that might have been sampled, each as often as the student writes it."""
    log_p, log_q = pair(seed, rows=1)
    total = torch.zeros_like(log_q)
    for token in range(log_q.shape[1]):
        order = [token, *(other for other in range(log_q.shape[1]) if other != token)]
        back = torch.tensor(order).argsort()
        total += log_q[0, token].exp() * slope(LOSSES["policy_gradient"], log_p[:, order], log_q[:, order])[:, back]
    torch.testing.assert_close(total, slope(LOSSES["reverse_kl"], log_p, log_q), atol=1e-9, rtol=1e-6)


def test_a_fixed_advantage_pushes_down_whatever_the_teacher_says() -> None:
    log_p, log_q = pair(2)
    push = slope(LOSSES["fixed_advantage"], log_p, log_q)
    torch.testing.assert_close(push, slope(LOSSES["fixed_advantage"], log_q, log_q))
    assert (push[:, 0] > 0).all()  # a step against the gradient makes the token less likely
    with pytest.raises(Exception, match="a number other than 0, not 0"):  # Hydra's, around the sentence
        build("fixed_advantage", "advantage=0")


# --------------------------------------------------------------------------------------------------- spans of rows

SPAN = torch.tensor([0, 1, 1, 1, 4, 4, 7])


@pytest.mark.parametrize("tau", [1.0, 100.0])
@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_a_span_costs_what_its_sums_say_shared_by_its_rows(tau: float, seed: int) -> None:
    log_p, log_q = pair(seed)
    price = build("span_kl", f"tau={tau}").of_spans(log_p, log_q, SPAN)
    for name in SPAN.unique():
        rows = name == SPAN
        came = [log[rows, 0].exp().tolist() for log in (log_p, log_q)]
        expected = span_kl(*came, came=len(came[0]), tau=tau) / len(came[0])
        torch.testing.assert_close(price[rows], torch.full_like(price[rows], expected), atol=1e-9, rtol=1e-8)


def test_only_the_sum_over_a_span_counts() -> None:
    log_p, log_q = pair(31)
    other = log_q.clone()
    other[2, 0] += 0.5
    other[3, 0] -= 0.5
    loss = LOSSES["span_kl"]
    torch.testing.assert_close(loss.of_spans(log_p, other, SPAN), loss.of_spans(log_p, log_q, SPAN))
    assert not torch.allclose(loss(log_p, other), loss(log_p, log_q))


def test_a_span_at_tau_1_is_the_kl_of_it_came_and_at_large_tau_has_a_limit() -> None:
    log_p, log_q = pair(37, rows=40)
    first = build("dkd", "alpha=1", "beta=0")
    torch.testing.assert_close(build("span_kl", "tau=1")(log_p, log_q), first(log_p, log_q), atol=1e-4, rtol=1e-4)
    a, b = -log_p[:, 0], -log_q[:, 0]
    near = build("span_kl", "tau=1000")(log_p, log_q)
    torch.testing.assert_close(near, b - a + a * (a / b).log(), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("budget_mb", [1.0, 1e-4])
def test_the_heads_gradient_of_spans_is_dense_autograds(budget_mb: float) -> None:
    """Also where the budget is a row: no span is cut in two."""
    source = torch.Generator().manual_seed(3)
    rows, vocab, k = len(SPAN), 11, 4
    ids = torch.stack([torch.randperm(vocab, generator=source)[:k] for _ in range(rows)])
    log_p = pair(5, rows, k)[0]
    hidden = torch.randn(rows, vocab, generator=source, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(rows, generator=source, dtype=torch.float64) + 0.1
    unmatched = torch.arange(rows) == rows - 1
    head, loss = Head(torch.eye(vocab, dtype=torch.float64)), LOSSES["span_kl"]
    given_ = {"unmatched": unmatched, "span": SPAN, "budget_mb": budget_mb, "alpha_ce": 0.25}
    total, price = distill(hidden, head, ids, log_p, weight, loss, **given_)
    (grad,) = torch.autograd.grad(total, hidden)

    log_q = torch.log_softmax(hidden, -1).gather(1, ids)
    dense = 0.75 * loss.of_spans(log_p, log_q, SPAN) - 0.25 * log_q[:, 0]
    dense = torch.where(unmatched, -log_q[:, 0], dense)
    (expected,) = torch.autograd.grad((weight * dense).sum(), hidden)
    torch.testing.assert_close(price, dense.detach(), atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(grad, expected, atol=1e-10, rtol=1e-8)
    with pytest.raises(ValueError, match="span is one ascending number for each of 7 rows"):
        distill(hidden, head, ids, log_p, weight, loss, **given_ | {"span": SPAN.flip(0)})


def test_a_span_loss_is_not_priced_row_by_row_inside_another() -> None:
    with pytest.raises(Exception, match="prices spans, and a soft clamp each row"):
        mixed_in("soft_clamp", "span_kl")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(None, ["+loss=weighted", "+loss@loss.losses.span_kl=span_kl", "+loss.weights.span_kl=1"])
    with pytest.raises(Exception, match="loss=span_kl prices spans, and a sum each row"):
        instantiate(config.loss, _convert_="all")
