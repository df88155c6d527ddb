"""Every selector in conf/selector, against its rule written the slow way."""

import copy
import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ekd.loss.forward_kl import ForwardKL
from ekd.models.head import Head, distill
from ekd.types import Learns, Selector

CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(path.stem for path in (CONF / "selector").glob("*.yaml"))


def build(line: str) -> Selector:
    """ "bucket lower=10" -> what the command line would build."""
    name, *values = line.split()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(None, [f"+selector={name}", "+trainer=default", *(f"selector.{v}" for v in values)])
    return instantiate(config.selector, _convert_="all")


BUILT = {name: build(name) for name in NAMES}
MORE = {
    line: build(line)
    for line in (
        "topk scope=batch",
        "bucket scope=batch",
        "random scope=batch",
        "score_weighted scope=batch",
        "score_weighted normalise=minmax",
        "score_weighted scope=batch normalise=minmax",
        "adaptive scope=batch k_percent=30",
        "sampled corrected=false",
        "global_threshold warm_up=1 size=40",
        "global_bucket warm_up=1 size=40",
        "curriculum steps=10",
        "threshold below=0.01",
    )
}
ALL = BUILT | MORE


def fresh(name: str) -> Selector:
    return copy.deepcopy(ALL[name])


def rows(sizes: list[int], seed: int, ties: bool = False) -> tuple[Tensor, Tensor]:
    """Scores (with many ties, if asked) and the sequences 0, 3, 6, ... of rows."""
    source = torch.Generator().manual_seed(seed)
    score = torch.randn(sum(sizes), generator=source)
    sequence = torch.repeat_interleave(3 * torch.arange(len(sizes)), torch.tensor(sizes))
    return score.mul(2).round() if ties else score, sequence


SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=6)
SEEDS = st.integers(0, 2**31)


def per_sequence(values: Tensor, sequence: Tensor) -> list[list[float]]:
    return [values[sequence == s].tolist() for s in sequence.unique()]


# ------------------------------------------------------------------------------------------ what all of them promise


@pytest.mark.parametrize("name", sorted(ALL))
@settings(deadline=None, max_examples=15)
@given(SIZES, SEEDS, st.booleans())
def test_weights_are_weights(name: str, sizes: list[int], seed: int, ties: bool) -> None:
    score, sequence = rows(sizes, seed, ties)
    selector, before = fresh(name), (score.clone(), sequence.clone())
    for _ in range(3):  # those with memory change their mind, and must keep the promise
        weight = selector(score, sequence)
        assert weight.shape == score.shape and weight.dtype == score.dtype
        assert weight.isfinite().all() and (weight >= 0).all()
        assert all(max(w) > 0 for w in per_sequence(weight, sequence)), "a sequence has no row"
    assert torch.equal(score, before[0]) and torch.equal(sequence, before[1]), "its arguments were changed"


@pytest.mark.parametrize("name", sorted(ALL))
@settings(deadline=None, max_examples=10)
@given(SIZES, SEEDS, st.booleans())
def test_equal_seeds_choose_alike(name: str, sizes: list[int], seed: int, ties: bool) -> None:
    score, sequence = rows(sizes, seed, ties)
    one, two = fresh(name), fresh(name)
    for _ in range(3):
        assert torch.equal(one(score, sequence), two(score, sequence))


@pytest.mark.parametrize("name", sorted(ALL))
@settings(deadline=None, max_examples=10)
@given(SIZES, SEEDS)
def test_the_order_of_sequences_does_not_matter(name: str, sizes: list[int], seed: int) -> None:
    """Nor what else is in the batch, for selectors that compare within a sequence."""
    selector = fresh(name)
    if "seed" in vars(selector):
        return  # by lot: the next test looks at those
    score, sequence = rows(sizes, seed)
    order = np.random.default_rng(seed).permutation(len(sizes))
    moved = torch.cat([(sequence == 3 * s).nonzero()[:, 0] for s in order])
    again = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)[order])
    assert torch.equal(fresh(name)(score[moved], again), selector(score, sequence)[moved])
    if "scope=batch" not in name:
        first = sequence == 0
        assert torch.equal(fresh(name)(score[first], sequence[first]), fresh(name)(score, sequence)[first])


@pytest.mark.parametrize("name", [n for n in sorted(ALL) if "seed" in vars(ALL[n])])
def test_a_lot_has_a_seed_of_its_own_and_moves_on(name: str) -> None:
    score, sequence = rows([50], 0)
    torch.manual_seed(1)
    one = fresh(name)
    first, second = one(score, sequence), one(score, sequence)
    torch.manual_seed(2)
    assert torch.equal(fresh(name)(score, sequence), first), "it depends on the global random state"
    assert not torch.equal(first, second), "every step draws the same rows"
    assert not torch.equal(build(f"{name} seed=1")(score, sequence), first), "its seed changes nothing"


@pytest.mark.parametrize("name", sorted(ALL))
def test_small_and_flat_sequences(name: str) -> None:
    for sizes in ([1], [2], [1, 1, 2, 1], [7, 7]):
        sequence = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        for flat in (0.0, -3.5, 1e30):
            weight = fresh(name)(torch.full((sum(sizes),), flat), sequence)
            assert weight.isfinite().all()
            assert all(max(w) > 0 for w in per_sequence(weight, sequence))
    none = torch.zeros(0)
    assert fresh(name)(none, none.long()).shape == (0,)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("name", sorted(ALL))
def test_scores_that_are_no_numbers_are_refused(name: str, bad: float) -> None:
    score = torch.tensor([0.1, bad, 0.3])
    with pytest.raises(ValueError, match="1 of 3 scores"):
        fresh(name)(score, torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize("name", sorted(ALL))
def test_chosen_rows_carry_gradient_and_weights_none(name: str) -> None:
    """The gradient reaches every chosen row, no other, and nothing through score or weight."""
    source = torch.Generator().manual_seed(0)
    sizes, vocab, k = [9, 4, 14], 13, 4
    score, sequence = rows(sizes, 5)
    count = sum(sizes)
    hidden = torch.randn(count, vocab, generator=source, requires_grad=True)
    signal = score + 0 * hidden.sum(-1)  # as if someone had forgotten no_grad
    weight = fresh(name)(signal, sequence)
    assert not weight.requires_grad
    ids = torch.stack([torch.randperm(vocab, generator=source)[:k] for _ in range(count)])
    teacher = torch.log_softmax(torch.randn(count, k + 1, generator=source), -1)
    keep = weight > 0
    total, _ = distill(
        hidden[keep], Head(torch.eye(vocab)), ids[keep], teacher[keep], weight[keep], ForwardKL(), budget_mb=1
    )
    (grad,) = torch.autograd.grad(total, hidden)
    assert torch.equal(grad.abs().sum(-1) > 0, keep)


# ------------------------------------------------------------------------------------------ the rules, row after row


def ceil_share(k_percent: str, n: int) -> int:
    return max(1, math.ceil(Fraction(k_percent) * n / 100))


def slow_topk(score: list[float], count: int) -> list[float]:
    order = sorted(range(len(score)), key=lambda t: (-score[t], t))
    return [float(t in order[:count]) for t in range(len(score))]


@settings(deadline=None, max_examples=60)
@given(SIZES, SEEDS, st.booleans(), st.sampled_from(["0.01", "1.1", "7.3", "20", "33.3", "50", "66.6", "99.9", "100"]))
def test_topk_keeps_exactly_the_highest(sizes: list[int], seed: int, ties: bool, k: str) -> None:
    score, sequence = rows(sizes, seed, ties)
    weight = build_topk(k)(score, sequence)
    for scores, weights in zip(per_sequence(score, sequence), per_sequence(weight, sequence), strict=True):
        assert weights == slow_topk(scores, ceil_share(k, len(scores)))


def build_topk(k: str) -> Selector:
    return type(BUILT["topk"])(k_percent=float(k), scope="sequence")  # type: ignore[call-arg]


@pytest.mark.parametrize("k", ["0.7", "1.1", "12.5", "20", "33.3", "70"])
def test_shares_are_exact_for_long_sequences(k: str) -> None:
    """1.1 * 3000 / 100 is above 33 in binary; the share must be 33 all the same."""
    for n in (10, 99, 1000, 3000, 40_000):
        score = torch.rand(n)
        assert int(build_topk(k)(score, torch.zeros(n, dtype=torch.long)).sum()) == ceil_share(k, n)


@settings(deadline=None, max_examples=60)
@given(SIZES, SEEDS, st.booleans(), st.sampled_from([(70, 80), (0, 100), (5, 20), (75, 95), (0, 10), (33.3, 33.4)]))
@example([1, 9, 5], 1524, False, (5, 20))
@example([1, 1, 2, 12, 12, 5], 27678172, True, (5, 20))  # the middle of the band lies midway between two rows
def test_bucket_keeps_exactly_the_rows_between(sizes: list[int], seed: int, ties: bool, band: tuple) -> None:
    score, sequence = rows(sizes, seed, ties)
    weight = type(BUILT["bucket"])(lower=band[0], upper=band[1], scope="sequence")(score, sequence)  # type: ignore[call-arg]
    for scores, weights in zip(per_sequence(score, sequence), per_sequence(weight, sequence), strict=True):
        low, high = (np.quantile(np.array(scores), b / 100) for b in band)
        tiny = 1e-9  # numpy's own interpolation rounds
        between = [float(low - tiny <= s <= high + tiny) for s in scores]
        if not any(between):
            near = [abs(s - (low + high) / 2) for s in scores]
            first = next(t for t, far in enumerate(near) if math.isclose(far, min(near), rel_tol=1e-8, abs_tol=1e-11))
            between = [float(t == first) for t in range(len(scores))]
        assert weights == between


def test_lower_alone_keeps_the_default_upper() -> None:
    score, sequence = torch.arange(101.0), torch.zeros(101, dtype=torch.long)
    assert build("bucket lower=70")(score, sequence).nonzero()[:, 0].tolist() == list(range(70, 81))
    assert build("bucket lower=60")(score, sequence).nonzero()[:, 0].tolist() == list(range(60, 81))


@pytest.mark.parametrize("name", ["topk scope=batch", "bucket scope=batch"])
def test_batch_scope_is_one_big_sequence_plus_one_row_for_those_left_out(name: str) -> None:
    score, sequence = rows([20, 30, 3], 7)
    score[-3:] -= 100
    weight = fresh(name)(score, sequence)
    alone = build(name.split()[0])(score, torch.zeros_like(sequence))
    assert torch.equal(weight[:-3], alone[:-3])
    assert weight[-3:].sum() == 1


def test_random_takes_as_many_as_topk_and_each_row_equally_often() -> None:
    score, sequence = rows([1, 2, 5, 12], 3)
    selector, steps = fresh("random"), 2000
    counts = torch.zeros(20)
    for _ in range(steps):
        weight = selector(score, sequence)
        assert [sum(w) for w in per_sequence(weight, sequence)] == [1, 1, 1, 3]
        counts += weight
    for mean, n, k in ((counts[3:8] / steps, 5, 1), (counts[8:] / steps, 12, 3)):
        share = k / n
        assert ((mean - share).abs() < 4.5 * math.sqrt(share * (1 - share) / steps)).all()


@settings(deadline=None, max_examples=20)
@given(SIZES, SEEDS)
def test_curriculum_moves_its_window_up(sizes: list[int], seed: int) -> None:
    score, sequence = rows(sizes, seed, ties=True)
    selector = build_curriculum(steps=3, accumulate=2, power=2.0)
    for step in range(9):
        weight = selector(score, sequence)
        phase = 0.25 + (0.75 - 0.25) * min(step / 6, 1) ** 2
        for scores, weights in zip(per_sequence(score, sequence), per_sequence(weight, sequence), strict=True):
            n, k = len(scores), ceil_share("20", len(scores))
            first = math.floor((n - k) * phase)
            chosen = sorted(range(n), key=lambda t: (scores[t], t))[first : first + k]
            assert weights == [float(t in chosen) for t in range(n)]


def build_curriculum(**values: float) -> Selector:
    return type(BUILT["curriculum"])(k_percent=20, start=0.25, end=0.75, **values)  # type: ignore[call-arg]


def test_curriculum_knows_the_length_of_the_run_from_the_trainer() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["selector=curriculum", "trainer.max_steps=7", "trainer.accumulate_grad_batches=3"])
    assert instantiate(config.selector, _convert_="all").calls == 21
    with pytest.raises(Exception, match=r"trainer\.max_steps"):
        build("curriculum steps=-1")


@settings(deadline=None, max_examples=20)
@given(SIZES, SEEDS)
def test_threshold_weighs_by_what_is_reached(sizes: list[int], seed: int) -> None:
    score, sequence = rows(sizes, seed)
    weight = fresh("threshold below=0.01")(score, sequence)
    for scores, weights in zip(per_sequence(score, sequence), per_sequence(weight, sequence), strict=True):
        best = scores.index(max(scores))
        expected = [1.0 if s >= 0.5 or t == best else 0.01 for t, s in enumerate(scores)]
        assert weights == pytest.approx(expected)


def test_global_threshold_remembers_the_last_scores() -> None:
    selector = build("global_threshold size=40 warm_up=15 k_percent=30")
    seen: list[float] = []
    for seed in range(30):
        score, sequence = rows([5, 1, 3], seed)
        weight = selector(score, sequence)
        ring = seen[-40:]
        limit = np.quantile(np.array(ring), 0.7) if len(ring) >= 15 else None
        for scores, weights in zip(per_sequence(score, sequence), per_sequence(weight, sequence), strict=True):
            if limit is None:
                assert weights == slow_topk(scores, ceil_share("30", len(scores)))
            else:
                high = [float(s >= limit) for s in scores]
                assert weights == (high if any(high) else slow_topk(scores, 1))
        seen += score.tolist()


def test_global_bucket_remembers_the_last_scores() -> None:
    selector = build("global_bucket size=40 warm_up=15 lower=40 upper=70")
    seen: list[float] = []
    for seed in range(30):
        score, sequence = rows([5, 1, 3], seed)
        weight = selector(score, sequence)
        if len(seen) >= 15:
            low, high = (np.quantile(np.array(seen[-40:]), q) for q in (0.4, 0.7))
            for scores, weights in zip(per_sequence(score, sequence), per_sequence(weight, sequence), strict=True):
                inside = [float(low <= s <= high) for s in scores]
                near = [abs(s - (low + high) / 2) for s in scores]
                assert weights == (inside if any(inside) else [float(d == min(near)) for d in near])
        else:
            assert torch.equal(weight, build("bucket lower=40 upper=70")(score, sequence))
        seen += score.tolist()


def test_global_threshold_of_more_scores_than_its_ring() -> None:
    selector = build("global_threshold size=10 warm_up=10 k_percent=50")
    many = torch.arange(37.0)
    selector(many, torch.zeros(37, dtype=torch.long))
    assert sorted(selector.ring.scores.view(torch.float32).tolist()) == many[-10:].tolist()
    selector(torch.tensor([100.0, 101.0]), torch.zeros(2, dtype=torch.long))
    assert sorted(selector.ring.scores.view(torch.float32).tolist()) == [*many[-8:].tolist(), 100.0, 101.0]


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_corrected_sampling_expects_the_vanilla_loss(alpha: float) -> None:
    """E w_t = 1 for each row, hence E sum w l = sum l whatever l; the interval is the binomial's own."""
    sizes, steps = [1, 4, 15], 4000
    score, sequence = rows(sizes, 9)
    price = torch.rand(20, dtype=torch.float64) * 5
    selector = build(f"sampled k_percent=40 alpha={alpha} eps=0.05")
    weights = torch.stack([selector(score, sequence) for _ in range(steps)]).double()
    expected_draws = []
    for scores in per_sequence(score, sequence):
        mass = [max(s, 0.05) ** alpha for s in scores]
        expected_draws += [(m / sum(mass), ceil_share("40", len(scores))) for m in mass]
    chance, draws = (torch.tensor(x, dtype=torch.float64) for x in zip(*expected_draws, strict=True))
    error = ((1 - chance) / (draws * chance) / steps).sqrt()
    assert ((weights.mean(0) - 1).abs() <= 4.5 * error + 1e-6).all()
    loss = (weights * price).sum(-1)
    assert abs(loss.mean() - price.sum()) < 4.5 * loss.std() / math.sqrt(steps)


def test_uncorrected_sampling_expects_the_score_weighted_loss() -> None:
    steps = 4000
    score, sequence = rows([6, 15], 9)
    selector = build("sampled k_percent=40 corrected=false eps=0.05")
    weights = torch.stack([selector(score, sequence) for _ in range(steps)]).double()
    assert torch.allclose(weights.sum(-1), torch.tensor(21.0, dtype=torch.float64), atol=1e-4)
    expected = fresh("score_weighted")(score.clamp(min=0.05), sequence).double()
    assert ((weights.mean(0) - expected).abs() <= 4.5 * weights.std(0) / math.sqrt(steps) + 1e-3).all()


@settings(deadline=None, max_examples=20)
@given(SIZES, SEEDS, st.booleans())
def test_score_weighted_follows_the_score(sizes: list[int], seed: int, ties: bool) -> None:
    score, sequence = rows(sizes, seed, ties)
    mean, minmax = (fresh(n)(score, sequence) for n in ("score_weighted", "score_weighted normalise=minmax"))
    for scores, a, b in zip(*(per_sequence(x, sequence) for x in (score, mean, minmax)), strict=True):
        up = [max(s, 0) for s in scores]
        width = max(scores) - min(scores)
        assert a == pytest.approx([u * len(up) / sum(up) for u in up] if sum(up) > 0 else [1.0] * len(up), rel=1e-5)
        assert b == pytest.approx([(s - min(scores)) / width for s in scores] if width else [1.0] * len(up), rel=1e-5)


def test_adaptive_narrows_while_the_loss_falls() -> None:
    selector = build("adaptive warm_up=3 decay=0.9 lowest=40")
    assert isinstance(selector, Learns)
    score, sequence = rows([100], 0)
    k, mean, reference, shares = 100.0, None, None, []
    losses = [4.0] * 5 + [1.0] * 40 + [9.0] * 40
    for step, loss in enumerate(losses, 1):
        assert int(selector(score, sequence).sum()) == ceil_share(str(round(k, 9)), 100)
        weight = torch.tensor([2.0, 1.0, 0.0])
        selector.learn(None, weight, torch.tensor([loss, loss, 777.0]) * (weight > 0))  # type: ignore[arg-type]
        mean = loss if mean is None else 0.9 * mean + 0.1 * loss
        if step == 3:
            reference = mean
        elif step > 3 and mean < 0.9 * reference:
            k, reference = max(40.0, 0.9 * k), mean
        elif step > 3 and mean > 1.1 * reference:
            k, reference = min(100.0, 1.1 * k), mean
        shares.append(k)
        assert selector.k_percent == pytest.approx(k)
    assert min(shares) == 40.0 and shares[-1] == 100.0


def test_vanilla_is_one_everywhere() -> None:
    score, sequence = rows([3, 4], 0)
    assert torch.equal(fresh("vanilla")(score, sequence), torch.ones(7))


# ------------------------------------------------------------------------------------------ memory and ranks


MODULES = [name for name in sorted(ALL) if isinstance(ALL[name], nn.Module)]


def tell(selector: Selector, seed: int) -> Tensor:
    score, sequence = rows([4, 9, 30], seed)
    weight = selector(score, sequence)
    if isinstance(selector, Learns):
        selector.learn(None, weight, weight * (30 - seed))  # type: ignore[arg-type]
    return weight


@pytest.mark.parametrize("name", MODULES)
def test_a_resumed_selector_goes_on_as_if_nothing_had_happened(name: str, tmp_path: Path) -> None:
    straight = fresh(name)
    whole = [tell(straight, seed) for seed in range(30)]
    first, second = fresh(name), fresh(name)
    for seed in range(25):
        tell(first, seed)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert all(torch.equal(tell(second, seed), whole[seed]) for seed in range(25, 30))


@pytest.mark.parametrize("name", MODULES)
def test_reduced_precision_does_not_round_its_memory(name: str) -> None:
    """trainer.precision=bf16-true casts every floating point buffer of every module."""
    plain, cast = fresh(name), fresh(name).to(torch.bfloat16)
    for seed in range(25):
        assert torch.equal(tell(plain, seed), tell(cast, seed))


@pytest.mark.parametrize("name", [n for n in sorted(BUILT) if isinstance(BUILT[n], nn.Module)])
def test_every_memory_is_a_buffer(name: str) -> None:
    """What changes in use is in the state dict: nothing is hidden where checkpoints do not look."""
    selector = fresh(name)

    def hidden() -> str:
        return repr({k: v for k, v in vars(selector).items() if not k.startswith("_")})

    before = hidden()
    for seed in range(3):
        tell(selector, seed)
    assert hidden() == before


HALF = """
import sys, torch
from ekd.selector.adaptive import Adaptive
from ekd.selector.global_threshold import GlobalThreshold
from ekd.selector.random import Random
rank, store, inputs, output = int(sys.argv[1]), *sys.argv[2:]
torch.distributed.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
values, batches = torch.load(inputs)
ring, adaptive, lot = GlobalThreshold(**values[0]), Adaptive(**values[1]), Random(**values[2])
kept = []
for step, (score, sequence) in enumerate(batches):
    mine = (sequence == 6) == bool(rank)
    if step == 5 and rank:
        mine = torch.zeros_like(mine)  # a rank without a row to choose from
    kept.append(ring(score[mine], sequence[mine]).tolist())
    weight = adaptive(score[mine], sequence[mine])
    adaptive.learn(None, weight, weight * (12 - step + rank))
    lot(score[mine], sequence[mine])
torch.save([ring.state_dict(), adaptive.state_dict(), lot.state_dict(), kept], output)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def test_two_ranks_share_one_memory(tmp_path: Path) -> None:
    """Two processes with half of the sequences each remember and choose what one process does."""
    ring_values = {"k_percent": 20, "size": 200, "warm_up": 20}
    adaptive_values = {"k_percent": 100, "lowest": 10, "by": 0.1, "change": 0.1, "decay": 0.5, "warm_up": 2}
    adaptive_values["scope"] = "sequence"  # type: ignore[assignment]
    lot_values = {"k_percent": 20, "seed": 0, "scope": "sequence"}
    batches = [rows([4, 9, 30], seed) for seed in range(12)]
    torch.save([[ring_values, adaptive_values, lot_values], batches], tmp_path / "in.pt")
    words = [sys.executable, "-c", HALF]
    paths = [
        [str(rank), str(tmp_path / "store"), str(tmp_path / "in.pt"), str(tmp_path / f"{rank}.pt")] for rank in (0, 1)
    ]
    ranks = [subprocess.Popen([*words, *path]) for path in paths]
    assert [rank.wait(60) for rank in ranks] == [0, 0]
    a, b = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for one, two in zip(a[:3], b[:3], strict=True):
        assert all(torch.equal(one[key], two[key]) for key in one), "the ranks remember different things"

    ring = type(BUILT["global_threshold"])(**ring_values)  # type: ignore[call-arg]
    adaptive = type(BUILT["adaptive"])(**adaptive_values)  # type: ignore[call-arg]
    for step, (score, sequence) in enumerate(batches):
        if step == 5:
            score, sequence = score[:13], sequence[:13]
        assert ring(score, sequence).tolist() == a[3][step] + b[3][step], "two ranks choose other rows than one"
        weight = adaptive(score, sequence)
        adaptive.learn(None, weight, weight * (12 - step + (sequence == 6)))
    held, shared = (x.view(torch.float32).sort().values for x in (ring.ring.scores, a[0]["ring.scores"]))
    assert torch.equal(held, shared)
    assert adaptive.k_percent == pytest.approx(float(a[1]["memory"].view(torch.float64)[0]))
    assert adaptive.k_percent < 100


# ------------------------------------------------------------------------------------------ bad values


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("topk k_percent=0", "k_percent=0"),
        ("topk k_percent=101", "k_percent=101"),
        ("topk scope=global", "scope='global'"),
        ("random k_percent=-1", "k_percent=-1"),
        ("bucket lower=80", "lower=80"),
        ("bucket upper=120", "upper=120"),
        ("threshold below=1", "below=1"),
        ("threshold at_least=inf", "at_least=inf"),
        ("global_threshold warm_up=40000", "warm_up=40000"),
        ("curriculum start=2", "start=2"),
        ("curriculum power=0", "power=0"),
        ("sampled eps=0", "eps=0"),
        ("sampled alpha=-1", "alpha=-1"),
        ("score_weighted normalise=z", "normalise='z'"),
        ("adaptive lowest=0", "lowest=0"),
        ("adaptive by=1", "by=1"),
        ("adaptive warm_up=0", "warm_up=0"),
    ],
)
def test_a_value_out_of_range_is_named(line: str, says: str) -> None:
    with pytest.raises(Exception, match=says):
        build(line)
