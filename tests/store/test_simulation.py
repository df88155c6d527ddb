"""The simulation of many workers keeps what the real ones keep: all is made, and hardly any of it twice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from simulate_workers import Plan, Simulation

SMALL = {"requests": 2_000, "workers": 8, "rate": 20_000.0}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("batch", [1, 8])
def test_all_is_made_and_of_a_death_only_what_was_in_the_making_twice(seed, batch):
    made = Simulation(Plan(**SMALL, batch=batch, lifetime=0.02, restart=5.0, seed=seed))
    found = made.run()
    assert found.deaths > 5 and made.done == set(range(2_000))
    assert 0 < found.begun_twice <= batch * found.deaths
    assert found.hours > found.ideal


def test_without_deaths_nothing_is_made_twice_and_the_work_is_shared_evenly():
    found = Simulation(Plan(**SMALL, lifetime=None)).run()
    assert (found.deaths, found.begun_twice) == (0, 0)
    assert 1 <= found.hours / found.ideal < 1.1


def test_a_lock_that_is_slow_is_paid_for_by_all():
    quick, slow = (Simulation(Plan(**SMALL, lifetime=None, lock=lock)).run() for lock in (0.0, 5.0))
    assert slow.hours > 1.2 * quick.hours
