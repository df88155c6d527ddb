"""Every signal in conf/signal, against its formula written the slow way."""

import copy
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ekd.models.load import load_tokenizer
from ekd.models.rows import top_of
from ekd.signal.bandit import FEATURES, token_classes
from ekd.signal.rock import Rock
from ekd.types import Rows, Signal, Stats

CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(path.stem for path in (CONF / "signal").glob("*.yaml"))
SEEDS = st.integers(0, 2**31)
VOCAB = 40


def build(name: str, *overrides: str) -> Signal:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(
            None, [f"+signal={name}", "+student=default", "student.model=tiny", "+trainer=default", *overrides]
        )
    return instantiate(config.signal, _convert_="all")


SIGNALS = {name: build(name) for name in NAMES}


def make(seed: int, sizes: tuple[int, ...] = (5, 1, 8), k: int = 6, twin: bool = False) -> tuple[Rows, Tensor, Tensor]:
    """Rows of sequences 0, 2, 4, ..., and the dense distributions of teacher and student (R, V). twin: they agree."""
    source = torch.Generator().manual_seed(seed)
    count = sum(sizes)
    p = torch.softmax(3 * torch.randn(count, VOCAB, generator=source, dtype=torch.float64), -1)
    q = p if twin else torch.softmax(3 * torch.randn(count, VOCAB, generator=source, dtype=torch.float64), -1)
    target = torch.multinomial(p, 1, generator=source)[:, 0]
    best = p.scatter(1, target[:, None], 2.0).topk(k, -1).indices  # the next token, then by falling probability
    named = torch.arange(k) < torch.randint(1, k + 1, (count, 1), generator=source)
    ids = best.masked_fill(~named, -1)

    def known(x: Tensor) -> Tensor:
        mass = x.gather(1, best).masked_fill(~named, 0)
        return torch.cat([mass, 1 - mass.sum(-1, keepdim=True)], 1).log().float()

    def entropy(x: Tensor) -> Tensor:
        return -(x * x.log()).sum(-1).float()

    length, top = torch.tensor(sizes), q.topk(16)
    rows = Rows(
        sequence=torch.repeat_interleave(2 * torch.arange(len(sizes)), length),
        position=torch.cat([torch.arange(n) for n in sizes]),
        length=torch.repeat_interleave(length, length),
        target=target,
        end=torch.zeros(count, dtype=torch.bool),
        valid=torch.ones(count, dtype=torch.bool),
        teacher_ids=ids,
        teacher_logprobs=known(p),
        teacher_entropy=entropy(p),
        log_norm=torch.zeros(count),
        vocab=VOCAB,
        contrast=-3 * torch.rand(count, generator=source),
        agreement=torch.rand(count, generator=source),
        student=Stats(entropy(q), known(q).clamp(min=-1e30), q.argmax(-1), top.indices, top.values.log().float()),
    )
    return rows, p, q


def take(rows: Rows, index: Tensor) -> Rows:
    """The rows at `index`, the student's statistics with them."""
    inner = None if rows.student is None else Stats(*(x[index] for x in rows.student))
    outer = Rows(*(x[index] if isinstance(x, Tensor) else x for x in rows[:-1]), student=None)
    return outer._replace(student=inner)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=8)
@given(SEEDS)
def test_a_finite_score_for_each_row(name: str, seed: int) -> None:
    rows, _, _ = make(seed)
    score = SIGNALS[name](rows)
    assert score.shape == (14,) and score.dtype == torch.float32
    assert score.isfinite().all() and not score.requires_grad
    assert torch.equal(score, SIGNALS[name](rows)), "asking twice changes the answer"
    assert SIGNALS[name](take(rows, torch.arange(0))).shape == (0,)


@pytest.mark.parametrize("name", NAMES)
def test_says_truly_whether_it_needs_the_student(name: str) -> None:
    rows, _, _ = make(0)
    blind = rows._replace(student=None)
    if SIGNALS[name].needs_student:
        with pytest.raises(ValueError, match="needs_student"):
            SIGNALS[name](blind)
    else:
        assert torch.equal(SIGNALS[name](blind), SIGNALS[name](rows))


@pytest.mark.parametrize("name", NAMES)
def test_sequences_do_not_know_each_other(name: str) -> None:
    """Default settings score a sequence alike, alone or in company, whatever the order."""
    rows, _, _ = make(1)
    together = SIGNALS[name](rows)
    for sequence in rows.sequence.unique():
        here = (rows.sequence == sequence).nonzero()[:, 0]
        torch.testing.assert_close(SIGNALS[name](take(rows, here)), together[here])


# ------------------------------------------------------------ the formulas of METHODS, one probability at a time


def entropy(x: list[float]) -> float:
    return -sum(v * math.log(v) for v in x if v > 0)


def kl(a: list[float], b: list[float]) -> float:
    return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x > 0)


def jsd(a: list[float], b: list[float]) -> float:
    m = [(x + y) / 2 for x, y in zip(a, b, strict=True)]
    return (kl(a, m) + kl(b, m)) / 2


class Row:
    """One row: dense p and q, their k+1 categories, the next token."""

    def __init__(self, rows: Rows, p: Tensor, q: Tensor, r: int) -> None:
        self.p, self.q, self.y = p[r].tolist(), q[r].tolist(), int(rows.target[r])
        self.ids = [i for i in rows.teacher_ids[r].tolist() if i >= 0]
        self.a = [*(self.p[i] for i in self.ids), 1 - sum(self.p[i] for i in self.ids)]
        self.b = [*(self.q[i] for i in self.ids), 1 - sum(self.q[i] for i in self.ids)]
        self.t, self.n = int(rows.position[r]), int(rows.length[r])
        self.ce_t, self.ce_s = -math.log(self.p[self.y]), -math.log(self.q[self.y])
        self.h = entropy(self.q) / math.log(VOCAB)
        self.again, self.agreement = float(rows.contrast[r]), float(rows.agreement[r])


def accepts(row: Row, k: int = 5) -> float:
    best = sorted(row.ids, key=lambda i: -row.p[i])[:k]
    return float(row.q.index(max(row.q)) in best)


def soft_or(row: Row) -> float:
    d = jsd(row.a, row.b) / math.log(2)
    return row.h + d - row.h * d


REFERENCES = {
    "teacher_entropy": lambda r: entropy(r.p),
    "teacher_ce": lambda r: r.ce_t,
    "teacher_uncertainty": lambda r: 1 - r.p[r.y],
    "position": lambda r: r.t / r.n,
    "student_entropy": lambda r: entropy(r.q),
    "student_ce": lambda r: r.ce_s,
    "kl": lambda r: kl(r.a, r.b),
    "reverse_kl": lambda r: kl(r.b, r.a),
    "jsd": lambda r: jsd(r.a, r.b),
    "hellinger": lambda r: math.sqrt(sum((x**0.5 - y**0.5) ** 2 for x, y in zip(r.a, r.b, strict=True)) / 2),
    "ce_ratio": lambda r: r.ce_s / (r.ce_t + 1e-6),
    "ce_ratio signal.entropy=times": lambda r: r.ce_s / (r.ce_t + 1e-6) * r.h,
    "ce_ratio signal.entropy=plus": lambda r: r.ce_s / (r.ce_t + 1e-6) + r.h,
    "excess_ce": lambda r: r.ce_s - r.ce_t,
    "soft_or": soft_or,
    "relative_confidence": lambda r: 1 / (1 + math.exp(entropy(r.p) - entropy(r.q))),
    "teacher_accepts": accepts,
    "teacher_accepts signal.k=1": lambda r: accepts(r, 1),
    "position signal.prefix=true": lambda r: 1 - r.t / r.n,
    "teacher_agreement": lambda r: r.agreement,  # made where teachers are read as one: tests/data/test_teachers.py
    "late": lambda r: 0.25 + 0.75 / (1 + math.exp(-((r.t + 0.5) / r.n - 0.3) / 0.1)),
    "late signal.falling=true": lambda r: 0.25 + 0.75 / (1 + math.exp(-((1 - (r.t + 0.5) / r.n) - 0.3) / 0.1)),
    "ordinary": lambda r: 1.0,  # the tiny tokenizer's special tokens are 256 and 257
    "prompt_gap": lambda r: -r.ce_t - r.again,
    "prompt_gap signal.absolute=true": lambda r: abs(-r.ce_t - r.again),
}


@pytest.mark.parametrize("line", sorted(REFERENCES))
def test_agrees_with_the_formula(line: str) -> None:
    signal = build(*line.split())
    for seed in range(5):
        rows, p, q = make(seed)
        expected = [REFERENCES[line](Row(rows, p, q, r)) for r in range(14)]
        torch.testing.assert_close(signal(rows), torch.tensor(expected), atol=2e-4, rtol=2e-4)


def test_a_student_like_its_teacher_has_nothing_to_learn() -> None:
    rows, _, _ = make(3, twin=True)
    for name in ("kl", "reverse_kl", "jsd", "hellinger", "excess_ce"):
        torch.testing.assert_close(SIGNALS[name](rows), torch.zeros(14), atol=1e-6, rtol=0)
    torch.testing.assert_close(SIGNALS["student_entropy"](rows), SIGNALS["teacher_entropy"](rows))
    torch.testing.assert_close(SIGNALS["relative_confidence"](rows), torch.full((14,), 0.5))


def test_soft_or_as_the_paper_has_it() -> None:
    """TIP, equation 7: entropy without its highest 2%, and reverse KL, both from 0 to 1 over the batch."""
    rows, p, q = make(4, sizes=(60, 41))
    inside = [Row(rows, p, q, r) for r in range(101)]
    h = torch.tensor([entropy(r.q) for r in inside])
    h = h.clamp(max=h.sort().values[98])
    d = torch.tensor([kl(r.b, r.a) for r in inside])
    h, d = ((x - x.min()) / (x.max() - x.min()) for x in (h, d))
    torch.testing.assert_close(build("soft_or", "signal.scale=minmax")(rows), h + d - h * d, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rising", [False, True])
def test_what_has_come_apart_so_far_is_added_up_row_by_row(rising: bool) -> None:
    rows, p, q = make(8)
    for name, size in (("kl", lambda r: kl(r.a, r.b)), ("excess_ce", lambda r: abs(r.ce_s - r.ce_t))):
        expected = []
        for sequence in rows.sequence.unique():
            steps = [size(Row(rows, p, q, r)) for r in range(14) if rows.sequence[r] == sequence]
            for t in range(len(steps)):
                share = sum(steps[:t]) / sum(steps)
                expected.append(0.5 + share if rising else 1.5 - share)
        signal = build("accumulated", f"signal@signal.of={name}", "signal.floor=0.5", f"signal.rising={rising}")
        torch.testing.assert_close(signal(rows), torch.tensor(expected), atol=1e-4, rtol=1e-4)
    same, _, _ = make(8, twin=True)
    torch.testing.assert_close(SIGNALS["accumulated"](same._replace(student=same.student)), torch.full((14,), 2.0))


def test_what_is_added_up_says_what_it_needs() -> None:
    assert not build("accumulated", "signal@signal.of=teacher_entropy").needs_student
    kinds = {name: build("accumulated", f"signal@signal.of={name}") for name in ("kl", "reverse_kl", "prompt_gap")}
    assert [one.needs_density for one in kinds.values()] == [False, True, True]  # type: ignore[attr-defined]
    assert [one.needs_contrast for one in kinds.values()] == [False, False, True]  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="learns while it runs"):
        build("accumulated", "signal@signal.of=bandit")


# ---------------------------------------------------------------------------------------------------- weighted sums


@pytest.mark.parametrize("normalise", ["z", "minmax", "none"])
def test_a_weighted_sum_is_scaled_within_each_sequence(normalise: str) -> None:
    rows, _, _ = make(5)
    more = [
        "+signal@signal.signals.position=position",
        "+signal.weights.position=-0.5",
        f"signal.normalise={normalise}",
    ]
    total = build("weighted", *more, "signal.weights.kl=2")(rows)
    for sequence in rows.sequence.unique():
        here = rows.sequence == sequence
        expected = torch.zeros(int(here.sum()))
        for name, weight in (("student_entropy", 1), ("kl", 2), ("position", -0.5)):
            score = SIGNALS[name](rows)[here]
            if normalise == "z":
                score = (score - score.mean()) / score.std(correction=0) if len(score) > 1 else torch.zeros(1)
            if normalise == "minmax":
                score = (score - score.min()) / (score.max() - score.min()) if len(score) > 1 else torch.zeros(1)
            expected += weight * score
        torch.testing.assert_close(total[here], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("normalise", ["z", "minmax"])
def test_a_constant_part_adds_nothing(normalise: str) -> None:
    rows, _, _ = make(6)
    rows = rows._replace(teacher_entropy=torch.full((14,), 1.7))
    signal = build(
        "weighted", "+signal@signal.signals.h=teacher_entropy", "+signal.weights.h=5", f"signal.normalise={normalise}"
    )
    torch.testing.assert_close(signal(rows), build("weighted", f"signal.normalise={normalise}")(rows))


def test_a_weighted_sum_needs_what_its_parts_need() -> None:
    drop = [
        "~signal.signals.kl",
        "~signal.weights.kl",
        "~signal.signals.student_entropy",
        "~signal.weights.student_entropy",
    ]
    cheap = build("weighted", "+signal@signal.signals.h=teacher_entropy", "+signal.weights.h=1", *drop)
    assert SIGNALS["weighted"].needs_student and not cheap.needs_student
    rows, _, _ = make(7)
    assert cheap(rows._replace(student=None)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "override", "says"),
    [
        ("weighted", "signal.normalise=rank", "rank"),
        ("weighted", "+signal.weights.jsd=1", "jsd"),
        ("weighted", "signal.weights={kl: 0, student_entropy: 0}", "not all 0"),
        ("ce_ratio", "signal.entropy=minus", "minus"),
        ("soft_or", "signal.scale=softmax", "softmax"),
        ("teacher_accepts", "signal.k=0", "k=0"),
        ("bandit", "signal.ridge=0", "ridge=0"),
        ("accumulated", "signal.floor=-1", "floor=-1"),
        ("late", "signal.floor=1", "floor=1"),
        ("late", "signal.width=0", "width=0"),
        ("teachability", "signal.top=0", "top=0"),
        ("rock", "signal.decay=1", "decay=1"),
        ("rock", "signal.count=0", "count=0"),
    ],
)
def test_a_value_out_of_range_is_named(name: str, override: str, says: str) -> None:
    with pytest.raises(Exception, match=says):
        build(name, override)


def test_a_signal_that_learns_is_not_summed() -> None:
    with pytest.raises(Exception, match="cannot be part of a sum"):
        build("weighted", "+signal@signal.signals.bandit=bandit", "+signal.weights.bandit=1")


# ------------------------------------------------------------------------------------- what reads more of the student


def between(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(v - low) / (high - low) if high > low else 1.0 for v in values]


@pytest.mark.parametrize("top", [1, 3, 16])
def test_teachability_over_the_whole_vocabulary(top: int) -> None:
    """A teacher that names every id hides none of its mass: the sum is over the student's list alone."""
    rows, p, q = make(9, k=VOCAB)
    named = p.sort(descending=True).indices
    log_p, log_q = (
        torch.cat([x.gather(1, named).log(), torch.full((14, 1), empty)], 1).float()
        for x, empty in ((p, -math.inf), (q, -1e30))
    )
    seen = rows.student._replace(log_q=log_q)
    rows = rows._replace(teacher_ids=named, teacher_logprobs=log_p, student=seen)
    far, mass = [], []
    for r in range(14):
        inside = sorted(range(VOCAB), key=lambda j: -q[r, j].item())[:top]
        a, b = ([x[r, j].item() for j in inside] for x in (p, q))
        mass.append(sum(a))
        far.append(kl([x / sum(a) for x in a], [x / sum(b) for x in b]))
    expected = []
    for sequence in rows.sequence.unique():
        here = [r for r in range(14) if rows.sequence[r] == sequence]
        one, other = (between([values[r] for r in here]) for values in (far, mass))
        expected += [a * b for a, b in zip(one, other, strict=True)]
    signal = build("teachability", f"signal.top={top}")
    torch.testing.assert_close(signal(rows), torch.tensor(expected), atol=1e-4, rtol=1e-4)


def test_mass_that_the_teacher_does_not_name_counts_as_none() -> None:
    rows, p, q = make(10)
    mass, far = [], []
    for r in range(14):
        inside = q[r].topk(16).indices.tolist()
        named = [j for j in rows.teacher_ids[r].tolist() if j in inside]
        mass.append(c := sum(p[r, j].item() for j in named))
        share = sum(q[r, j].item() for j in inside)
        far.append(sum(p[r, j].item() / c * math.log(p[r, j].item() / c * share / q[r, j].item()) for j in named))
    assert min(mass) == 0 and rows.sequence[6] == 4
    expected = [a * b for a, b in zip(between(far[6:]), between(mass[6:]), strict=True)]
    torch.testing.assert_close(SIGNALS["teachability"](rows)[6:], torch.tensor(expected), atol=1e-4, rtol=1e-4)


def test_a_signal_that_reads_the_students_ids_says_how_many() -> None:
    wide = build("weighted", "+signal@signal.signals.t=teachability", "+signal.weights.t=1", "signal.signals.t.top=4")
    inner = build("accumulated", "signal@signal.of=teachability", "signal.of.top=6")
    assert [top_of(one) for one in (wide, inner, SIGNALS["weighted"], SIGNALS["kl"])] == [4, 6, 0, 0]
    assert top_of(wide, inner) == 6
    rows, _, _ = make(11)
    short = rows._replace(student=rows.student._replace(top=rows.student.top[:, :3]))
    with pytest.raises(ValueError, match=r"top=16"):
        SIGNALS["teachability"](short)


def test_special_tokens_are_no_text_but_for_the_end() -> None:
    rows, _, _ = make(12)
    target = rows.target.clone()
    target[2], target[5], target[13] = 256, 257, 257  # <|im_start|>, <|im_end|>, and <|im_end|> where the answer ends
    rows = rows._replace(target=target, end=torch.arange(14) == 13, vocab=272)
    kept, strict = (build("ordinary", f"signal.end={end}")(rows) for end in ("true", "false"))
    assert (kept == 0).nonzero()[:, 0].tolist() == [2, 5]
    assert (strict == 0).nonzero()[:, 0].tolist() == [2, 5, 13]


# ------------------------------------------------------------------------------------------------------- rock tokens


def small_rock(count: int = 3, patience: int = 2) -> Rock:
    return Rock(count=count, spare=2, decay=0.7, patience=patience, size=VOCAB)


def test_a_rock_is_a_type_that_stays_dear() -> None:
    rock = small_rock()
    spent, times = [0.0] * VOCAB, [0.0] * VOCAB
    for seed in range(6):
        rows, p, q = make(seed)
        spent, times = [0.7 * x for x in spent], [0.7 * x for x in times]
        for r in range(14):
            row = Row(rows, p, q, r)
            spent[row.y] += kl(row.b, row.a)
            times[row.y] += 1
        rock.learn(rows, torch.zeros(14), torch.zeros(14))  # whatever was chosen
    spared = sorted(range(VOCAB), key=lambda y: -times[y])[:2]
    rocks = sorted((y for y in range(VOCAB) if y not in spared), key=lambda y: -spent[y])[:3]
    assert rock.rocks().tolist() == rocks
    assert spared[0] not in rocks and times[spared[1]] > sorted(times)[-3], "the two most frequent are not told apart"
    rows = make(0)[0]._replace(target=torch.tensor([*rocks, *spared, *range(9)]))
    assert rock(rows).tolist() == [float(y not in rocks) for y in [*rocks, *spared, *range(9)]]


def test_rocks_travel_in_checkpoints_and_are_not_rounded() -> None:
    rock, later = small_rock(), small_rock()
    rows, _, _ = make(1)
    rock.learn(rows, torch.ones(14), torch.zeros(14))
    assert torch.equal(rock(rows), torch.ones(14)), "called so before its patience has run out"
    rock.learn(take(rows, torch.arange(0)), torch.zeros(0), torch.zeros(0))  # a rank without rows
    later.load_state_dict(rock.state_dict())
    assert torch.equal(later.to(torch.bfloat16)(rows), rock(rows)) and 0 < rock(rows).sum() < 14
    with pytest.raises(ValueError, match=r"set signal\.size=41"):
        rock(rows._replace(vocab=41))


def test_the_rows_of_all_ranks_make_the_rocks(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = small_rock(), small_rock()
    rows, _, _ = make(2)
    two.learn(take(rows, torch.arange(14).repeat(2)), torch.ones(28), torch.zeros(28))
    monkeypatch.setattr("ekd.signal.rock.total", lambda value: 2 * value)  # the other rank has the same rows
    one.learn(rows, torch.ones(14), torch.zeros(14))
    torch.testing.assert_close(one.costs.view(torch.float32), two.costs.view(torch.float32))


# ---------------------------------------------------------------------------------------------------- the bandit


def after_a_step(rows: Rows, seed: int) -> Rows:
    """The same rows, seen by a student that has moved."""
    other, _, _ = make(seed)
    assert rows.student is not None and other.student is not None
    log_q = (rows.student.log_q + 0.3 * other.student.log_q.clamp(min=-9)).masked_fill(
        rows.student.log_q <= -1e29, -1e30
    )
    return rows._replace(student=rows.student._replace(log_q=torch.log_softmax(log_q, -1).clamp(min=-1e30)))


def contexts(rows: Rows) -> Tensor:
    """The bandit's six features, from the other signals."""
    parts = ["teacher_entropy", "teacher_ce", "student_ce", "kl", "position"]
    x = torch.stack([SIGNALS[name](rows) for name in parts], -1).double()
    return torch.cat([x, SIGNALS["bandit"].contexts(rows)[:, 5:]], 1)  # type: ignore[attr-defined]


def test_the_bandit_is_ridge_regression_with_a_bonus() -> None:
    bandit = copy.deepcopy(SIGNALS["bandit"])
    x, r = torch.zeros(0, FEATURES, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    for seed in range(6):
        rows, _, _ = make(seed)
        weight = (torch.rand(14) > 0.5).float()
        later = after_a_step(rows, seed + 50)
        bandit.learn(rows, weight, torch.zeros(14))
        bandit.review(later)
        reward = (SIGNALS["kl"](rows) - SIGNALS["kl"](later)).double().clamp(-5, 5)
        x = torch.cat([x, contexts(rows)[weight > 0]])
        r = torch.cat([r, reward[weight > 0]])
    rows, _, _ = make(99)
    a = x.T @ x + torch.eye(FEATURES, dtype=torch.float64)
    theta = torch.linalg.inv(a) @ (x.T @ r)
    here = contexts(rows)
    bonus = torch.stack([(v @ torch.linalg.inv(a) @ v).sqrt() for v in here])
    torch.testing.assert_close(bandit(rows), (here @ theta + bonus).float(), atol=1e-5, rtol=1e-5)


def test_the_bandit_finds_out_what_pays() -> None:
    """Rewards that grow with the student's cross entropy alone: after a while its score does, too."""
    bandit = build("bandit", "signal.explore=0")
    for seed in range(40):
        rows, _, _ = make(seed)
        ce = -rows.student.log_q[:, 0]
        bandit.learn(rows, torch.ones(14), torch.zeros(14))
        chosen, x, _ = bandit.waiting.pop()
        bandit.waiting.append(
            (chosen, x, SIGNALS["kl"](rows).double() + 0.1 * ce.double())
        )  # so that the reward is 0.1 CE_s
        bandit.review(rows)
    rows, _, _ = make(1234)
    torch.testing.assert_close(bandit(rows), -0.1 * rows.student.log_q[:, 0], atol=0.02, rtol=0.02)


def test_the_bandit_answers_micro_batches_in_their_order() -> None:
    one, two = (build("bandit", "trainer.accumulate_grad_batches=2") for _ in range(2))
    a, b = make(1)[0], make(2)[0]
    later_a, later_b = after_a_step(a, 3), after_a_step(b, 4)
    for rows, later in ((a, later_a), (b, later_b)):
        one.learn(rows, torch.ones(14), torch.zeros(14))
        one.review(later)
    for rows in (a, b):
        two.learn(rows, torch.ones(14), torch.zeros(14))
    for later in (later_a, later_b):
        two.review(later)
    assert all(torch.equal(x, y) for x, y in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


HALF = """
import sys, torch
from ekd.signal.bandit import Bandit
from ekd.types import Rows, Stats
rank, store, inputs, output = int(sys.argv[1]), *sys.argv[2:]
torch.distributed.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
bandit = Bandit(tokenizer="tiny", explore=1.0, ridge=1.0, clip=5.0, accumulate=1, trust_remote_code=False)
bandit.classes = torch.arange(40) % 4
for before, after in torch.load(inputs)[rank]:
    before, after = (Rows(*x[:-1], student=Stats(*x[-1])) for x in (before, after))
    bandit.learn(before, torch.ones(len(before.target)), torch.zeros(len(before.target)))
    bandit.review(after)
torch.save(bandit.state_dict(), output)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def test_two_ranks_share_one_bandit(tmp_path: Path) -> None:
    one = copy.deepcopy(SIGNALS["bandit"])
    one.classes = torch.arange(VOCAB) % 4  # type: ignore[assignment]
    halves: list[list] = [[], []]
    for seed in range(4):
        rows = make(seed)[0]
        later = after_a_step(rows, seed + 50)
        one.learn(rows, torch.ones(14), torch.zeros(14))
        one.review(later)
        for rank, index in enumerate((torch.arange(6), torch.arange(6, 14))):
            index = index[:0] if seed == 2 and rank == 0 else torch.arange(14) if seed == 2 else index
            halves[rank].append([[*x[:-1], tuple(x[-1])] for x in (take(rows, index), take(later, index))])
    torch.save(halves, tmp_path / "in.pt")
    where = [str(tmp_path / name) for name in ("store", "in.pt")]
    ranks = [subprocess.Popen([sys.executable, "-c", HALF, str(r), *where, str(tmp_path / f"{r}.pt")]) for r in (0, 1)]
    assert [rank.wait(60) for rank in ranks] == [0, 0]
    a, b = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for key, bits in one.state_dict().items():
        assert torch.equal(a[key], b[key]), "the ranks remember different things"
        torch.testing.assert_close(a[key].view(torch.float64), bits.view(torch.float64))


def test_the_bandits_memory_travels_and_is_not_rounded() -> None:
    bandit = copy.deepcopy(SIGNALS["bandit"])
    rows, _, _ = make(1)
    bandit.learn(rows, torch.ones(14), torch.zeros(14))
    bandit.review(after_a_step(rows, 2))
    fresh = copy.deepcopy(SIGNALS["bandit"])
    assert isinstance(fresh, nn.Module)
    fresh.load_state_dict(bandit.state_dict())
    assert torch.equal(fresh.to(torch.bfloat16)(rows), bandit(rows))
    assert not torch.equal(SIGNALS["bandit"](rows), bandit(rows))


def test_a_bandit_that_is_never_rewarded_says_so() -> None:
    bandit, rows = copy.deepcopy(SIGNALS["bandit"]), make(1)[0]
    bandit.learn(rows, torch.ones(14), torch.zeros(14))
    with pytest.raises(RuntimeError, match="review"):
        bandit.learn(rows, torch.ones(14), torch.zeros(14))


def test_token_classes() -> None:
    """Letters 0, digits 1, punctuation and operators 2, anything else 3; rows of the head beyond the tokenizer, too."""
    classes, ids = token_classes("tiny", 272), load_tokenizer("tiny").get_vocab()
    said = {token: int(classes[ids[token]]) for token in ("a", "<|im_end|>", "7", "+", ".", "Ġ")}
    assert said == {"a": 0, "<|im_end|>": 0, "7": 1, "+": 2, ".": 2, "Ġ": 3}
    assert set(classes[len(ids) :].tolist()) == {3}
