"""The statistics of a report on simulated sweeps whose truth is known; bounds are binomial, at 1 in 100,000."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from fake_sweep import BANDS, METHODS, made, method, share
from scipy import stats

from ekd.method import comparisons_of
from ekd.report.cell import Cell
from ekd.report.effects import any_difference, compare_methods, estimate, holm
from ekd.report.findings import findings
from ekd.report.section import Section, results

BAND_TO_RANDOM = (method("bucket_70_80"), method("random_10"))
TOP_TO_VANILLA = (method("topk_10"), method("vanilla"))
TILES = [method(name) for name in BANDS]
SHARES = {method(name): share(name) for name in METHODS}
PAIRS = comparisons_of(SHARES)
RUNS = 1000
RARE = 1e-5


def simulated(
    random: np.random.Generator, seeds: int, shared: float, own: float, effects: dict[str, float] | None = None
):
    """{method: {seed: nats}}; shared: noise that a seed's methods have in common; own: of each run."""
    common = random.normal(0, shared, seeds)
    truth = effects or {}
    return {
        method(name): dict(enumerate(1.5 + truth.get(name, 0.0) + common + random.normal(0, own, seeds)))
        for name in METHODS
    }


def at_most(rate: float, runs: int = RUNS) -> int:
    """Events that a true rate of `rate` exceeds once in 100,000."""
    return int(stats.binom.ppf(1 - RARE, runs, rate))


def at_least(rate: float, runs: int = RUNS) -> int:
    return int(stats.binom.ppf(RARE, runs, rate))


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_where_nothing_matters_a_whole_sweep_stays_silent_95_times_in_100(seeds):
    random = np.random.default_rng(seeds)
    alarms = sum(
        any(c.found for c in compare_methods(simulated(random, seeds, 0.05, 0.02), PAIRS)) for _ in range(RUNS)
    )
    assert alarms <= at_most(0.05)


@pytest.mark.parametrize("seeds", [3, 6])
def test_where_nothing_matters_the_headline_says_so_95_times_in_100(seeds):
    """The words, through the same rooms as the page's: cells, section, result, findings."""
    random, silent = np.random.default_rng(seeds), 0
    for _ in range(200):
        table = simulated(random, seeds, 0.05, 0.02)
        cells = [
            Cell(Path(name.name), "steps", name, seed, made(name.name, seed, kl)["figures"], made(name.name, seed, kl))
            for name, kls in table.items()
            for seed, kl in kls.items()
        ]
        section = Section("steps", cells, [], [], list(SHARES), list(range(seeds)), SHARES)
        silent += "none is shown to be better or worse" in findings(section, results(section)).headline
    assert silent >= 200 - at_most(0.05, 200)


def test_without_the_correction_it_would_not():
    random = np.random.default_rng(0)
    alarms = sum(any(c.p < 0.05 for c in compare_methods(simulated(random, 3, 0.05, 0.02), PAIRS)) for _ in range(200))
    assert alarms > at_most(0.05, 200) * 2


@pytest.mark.parametrize("seeds", [3, 5])
def test_one_comparison_errs_in_5_of_100_and_its_interval_covers_in_95(seeds):
    random = np.random.default_rng(seeds)
    truth = 0.03
    found = [compare_methods(simulated(random, seeds, 0.05, 0.02, {"bucket_70_80": truth}), [BAND_TO_RANDOM])[0]
             for _ in range(RUNS)]  # fmt: skip
    covered = sum(c.low <= truth <= c.high for c in found)
    assert at_least(0.95) <= covered <= at_most(0.95)
    null = [compare_methods(simulated(random, seeds, 0.05, 0.02), [BAND_TO_RANDOM])[0] for _ in range(RUNS)]
    assert at_least(0.05) <= sum(c.found for c in null) <= at_most(0.05)


@pytest.mark.parametrize(("seeds", "effect"), [(3, 0.5), (5, 0.2), (10, 0.08)])
def test_a_planted_effect_is_found_as_often_as_theory_says(seeds, effect):
    """Between Bonferroni's power over the family and the power of a test on its own, both of the noncentral t."""
    random, own = np.random.default_rng(seeds), 0.02
    shown = sum(
        next(c for c in compare_methods(simulated(random, seeds, 0.05, own, {"bucket_70_80": -effect}), PAIRS)
             if (c.method, c.control) == BAND_TO_RANDOM).found
        for _ in range(RUNS)
    )  # fmt: skip
    shift = effect / (own * np.sqrt(2 / seeds))
    assert at_least(power(shift, seeds, 0.05 / len(PAIRS))) <= shown <= at_most(power(shift, seeds, 0.05))
    assert shown > 0.5 * RUNS, "the case is one where a sweep of this size can see"


def power(shift: float, seeds: int, level: float) -> float:
    """Of the tail on the effect's side; the other is below 1e-6 here, where scipy gives nan."""
    return float(stats.nct.sf(stats.t.ppf(1 - level / 2, seeds - 1), seeds - 1, shift))


def test_pairing_helps_where_seeds_share_noise():
    random = np.random.default_rng(1)
    paired = unpaired = 0
    for _ in range(300):
        table = simulated(random, 5, 0.2, 0.02, {"bucket_70_80": -0.08})
        one, other = (list(table[one].values()) for one in BAND_TO_RANDOM)
        paired += compare_methods(table, [BAND_TO_RANDOM])[0].found
        unpaired += stats.ttest_ind(one, other).pvalue < 0.05
    assert paired > 0.9 * 300
    assert unpaired < 0.2 * 300


def test_a_comparison_is_scipys_paired_t_test():
    table = simulated(np.random.default_rng(2), 4, 0.1, 0.05)
    c = compare_methods(table, [TOP_TO_VANILLA])[0]
    reference = stats.ttest_rel(*(list(table[one].values()) for one in TOP_TO_VANILLA))
    assert c.p == pytest.approx(reference.pvalue) == c.corrected
    assert (c.low, c.high) == pytest.approx(tuple(reference.confidence_interval()))
    one = list(table[method("vanilla")].values())
    mean = estimate(one)
    assert (mean.low, mean.high) == pytest.approx(stats.t.interval(0.95, 3, fmean(one), stats.sem(one)))


def test_holm_by_hand():
    # Holm's own procedure: 0.01*4, then max with 0.015*3, 0.03*2, 0.2*1
    assert holm([0.03, 0.01, 0.2, 0.015]) == pytest.approx([0.06, 0.04, 0.2, 0.045])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert np.isnan(holm([np.nan, 0.02])).tolist() == [True, False]
    assert holm([np.nan, 0.02])[1] == pytest.approx(0.02)
    assert len(holm([])) == 0


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_test_over_all_bands_errs_in_5_of_100_at_most_and_sees_a_slope(seeds):
    random = np.random.default_rng(seeds)
    alarms = sum(any_difference(simulated(random, seeds, 0.05, 0.02), TILES) < 0.05 for _ in range(RUNS))
    assert alarms <= at_most(0.05)
    slope = {name: 0.01 * place for place, name in enumerate(BANDS)}
    seen = sum(any_difference(simulated(random, seeds, 0.05, 0.01, slope), TILES) < 0.05 for _ in range(200))
    assert seen > 0.9 * 200


def test_one_seed_gives_no_interval_and_seeds_that_only_one_has_are_left_out():
    single = compare_methods({"a": {0: 1.0}, "b": {0: 1.5}}, [("a", "b")])[0]
    assert single[2:] == (1, -0.5, None, None, None, None)
    assert not single.found and not single.hinted
    assert estimate([1.0]) == (1.0, None, None, 1)
    c = compare_methods({"a": {0: 1.0, 1: 1.1, 2: 9.0}, "b": {0: 1.5, 1: 1.7, 5: 3.0}}, [("a", "b")])[0]
    assert c.n == 2 and c.difference == pytest.approx(-0.55)
    assert compare_methods({"a": {0: 1.0}, "b": {1: 1.5}}, [("a", "b")]) == []


def test_differences_without_spread_are_not_taken_for_certainty():
    """A benchmark of 24 problems often gives the same difference for every seed."""
    a, b = {0: 4 / 24, 1: 5 / 24, 2: 6 / 24}, {0: 3 / 24, 1: 4 / 24, 2: 5 / 24}
    c = compare_methods({"a": a, "b": b}, [("a", "b")])[0]
    assert c.difference == pytest.approx(1 / 24)
    assert (c.low, c.p, c.found, c.hinted) == (None, None, False, False)
    assert any_difference({"a": a, "b": a, "c": a}, ["a", "b", "c"]) == 1.0
