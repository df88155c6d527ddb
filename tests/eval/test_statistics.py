"""Intervals cover what they should, and tests cry wolf as seldom as they say."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ekd.eval import statistics
from ekd.eval.compare import words
from ekd.eval.statistics import bootstrap, difference, mcnemar, mean_interval, pass_at, told_apart, wilson
from ekd.report.effects import Effect

# How likely each problem is solved: all alike, many hard and easy ones, mostly impossible ones as in AIME.
POPULATIONS = {
    "even": lambda random, n: random.beta(2, 2, n),
    "extremes": lambda random, n: random.beta(0.5, 0.5, n),
    "hard": lambda random, n: random.beta(0.3, 2, n),
    "aime": lambda random, n: np.where(random.random(n) < 0.7, 0.0, random.random(n)),
}
MEANS = {"even": 0.5, "extremes": 0.5, "hard": 0.3 / 2.3, "aime": 0.15}


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(statistics, "DRAWS", 500)


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (8, 10, 0.4902, 0.9433), (50, 100, 0.4038, 0.5962)]
)
def test_wilson_gives_the_textbook_values(correct, n, low, high):
    assert wilson(correct, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("n", [30, 1000])
def test_wilson_covers_95_percent(n):
    """Exactly, from the binomial distribution: on average over shares, and for none far off."""
    intervals = [wilson(k, n) for k in range(n + 1)]
    covered = []
    for p in np.linspace(0.02, 0.98, 49):
        chance = np.array([comb(n, k) * (p**k) * ((1 - p) ** (n - k)) for k in range(n + 1)])
        covered.append(sum(c for c, (low, high) in zip(chance, intervals, strict=True) if low <= p <= high))
    assert 0.94 < np.mean(covered) < 0.96 and min(covered) > 0.91


@pytest.mark.parametrize("n", [30, 1000])
@pytest.mark.parametrize("samples", [4, 16])
def test_the_interval_of_several_answers_covers_95_percent(n, samples, quick):
    """Simulated benchmarks whose true accuracy is known; see the table in docs/evaluation.md for each population."""
    random, rounds = np.random.default_rng(n + samples), 1200 if n == 30 else 240
    covered = 0
    for seed in range(rounds):
        name = list(POPULATIONS)[seed % len(POPULATIONS)]
        solved = random.binomial(samples, POPULATIONS[name](random, n)) / samples
        low, high = mean_interval(solved, seed)
        covered += low <= MEANS[name] <= high
    assert 0.93 <= covered / rounds <= 0.97


@pytest.mark.parametrize("samples", [1, 8])
def test_the_interval_of_a_difference_covers_95_percent(samples, quick):
    random, rounds, covered = np.random.default_rng(0), 1000, 0
    for seed in range(rounds):
        p = random.beta(1, 1, 60)
        better = np.clip(p + 0.1, 0, 1)
        a, b = (random.binomial(samples, q) / samples for q in (p, better))
        change = difference(a, b, seed)
        covered += change.low <= 0.095 <= change.high  # the mean of min(p + 0.1, 1) - p
    assert 0.93 <= covered / rounds <= 0.97


@pytest.mark.parametrize("samples", [1, 8])
def test_no_difference_is_called_one_in_at_most_5_of_100(samples, quick):
    random, rounds = np.random.default_rng(1), 500
    called = 0
    for seed in range(rounds):
        p = random.beta(1, 1, 50)
        a, b = (random.binomial(samples, p) / samples for _ in range(2))
        called += difference(a, b, seed).p < 0.05
    assert called / rounds <= 0.07  # 0.05 and three standard errors


def test_a_planted_difference_is_found(quick):
    random = np.random.default_rng(2)
    a, b = random.binomial(1, 0.4, 400), random.binomial(1, 0.6, 400)
    change = difference(a, b)
    assert change.p < 0.001 and 0 < change.low < 0.2 < change.high + 0.05


def test_mcnemar_is_the_binomial_test_of_the_pairs_that_differ():
    assert mcnemar(1, 8) == mcnemar(8, 1) == pytest.approx(2 * (1 + 9) / 2**9)
    assert mcnemar(0, 0) == mcnemar(5, 5) == 1.0


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_draws_that_hold_a_correct_answer(n, data):
    correct, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(combinations([i < correct for i in range(n)], k))
    assert pass_at(k, n, correct) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"pass@5 needs 5 answers a problem and there are 4; raise benchmark.samples"):
        pass_at(5, 4, 1)


def test_one_problem_none_and_equal_ones_have_honest_intervals():
    assert mean_interval([]) == (0.0, 1.0)
    assert mean_interval([0.5])[0] < 0.1 and mean_interval([0.5])[1] > 0.9
    assert mean_interval([0.0] * 30) == wilson(0, 30)  # a bootstrap would say [0, 0]
    assert difference([0.5], [0.75]).low == -1.0


@pytest.mark.parametrize(("n", "quantile"), [(2, 12.7062), (3, 4.3027), (6, 2.5706)])
def test_few_problems_are_judged_by_students_t(n, quantile):
    """Of 2 and 3 problems, where an expansion of t is a quarter and a thirtieth off: the score interval at t's z."""
    x = np.linspace(0.3, 0.7, n)
    mean, variance = x.mean(), x.var(ddof=1) / n
    worth = mean * (1 - mean) / variance
    half = quantile * np.sqrt(mean * (1 - mean) / worth + quantile**2 / (4 * worth**2)) / (1 + quantile**2 / worth)
    middle = (mean + quantile**2 / (2 * worth)) / (1 + quantile**2 / worth)
    low, high = bootstrap(x)
    assert mean_interval(x) == pytest.approx((min(low, middle - half), max(high, middle + half)), abs=1e-4)
    assert mean_interval(x).high == pytest.approx(max(high, middle + half), abs=1e-4)


def pairs_of(won: int, lost: int, n: int) -> tuple[list[float], list[float]]:
    a = [0.0] * won + [1.0] * lost + [1.0] * (n - won - lost)
    return a, [1.0] * won + [0.0] * lost + [1.0] * (n - won - lost)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 12), st.integers(0, 12), st.integers(24, 60))
def test_better_is_said_only_where_the_interval_and_the_test_both_say_so(won, lost, n):
    change = difference(*pairs_of(won, lost, n))
    said = words(change)
    sure = change.p < 0.05 and (change.low > 0 or change.high < 0)
    assert (said in ("A is better", "B is better")) == sure
    if sure:
        assert said == ("B is better" if won > lost else "A is better")
    assert "no difference" not in said and "not different" not in said


def test_an_interval_without_its_test_is_not_a_finding():
    change = difference(*pairs_of(5, 0, 30))
    assert change.low > 0 and change.p == pytest.approx(0.0625)
    assert words(change) == "not told apart; its p and its interval do not agree"
    assert words(difference(*pairs_of(3, 3, 30))) == "not told apart"


@pytest.mark.parametrize(
    ("p", "low", "high"),
    [(0.01, 0.1, 0.3), (0.01, -0.1, 0.3), (0.06, 0.1, 0.3), (0.01, -0.3, -0.1), (None, None, None)],
)
def test_the_report_goes_by_the_same_rule(p, low, high):
    assert Effect("a", "b", 3, 0.2, low, high, p, p).found == told_apart(p, low, high)
    assert told_apart(p, low, high) == (p == 0.01 and (low, high) != (-0.1, 0.3))


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_agrees_with_its_formula(won, lost):
    n = won + lost
    tails = sum(comb(n, i) for i in range(min(won, lost) + 1)) / 2**n
    assert mcnemar(won, lost) == pytest.approx(min(1.0, 2 * tails))


def test_a_shared_vote_counts_as_its_share():
    assert wilson(7, 20).low < wilson(7.5, 20).low < wilson(8, 20).low
