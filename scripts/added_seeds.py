"""How often a sweep in which nothing matters shows a difference, when seeds are added after looking.

    python scripts/added_seeds.py

The methods are the CPU study's, 32 comparisons that share their controls, corrected by Holm as in its report. Seeds are
drawn at once, or three are looked at and three more are run for every method where those show nothing.
"""

from __future__ import annotations

import argparse

import numpy as np

from ekd.method import TEACHER_ENTROPY, TEACHER_FREE, VANILLA, Method, Part, comparisons_of, twins_of
from ekd.report.effects import compare_methods


def choosing(selector: str, **values: float) -> Method:
    part = Part(selector, tuple(sorted({**values, "scope": "sequence"}.items())))
    return VANILLA._replace(selector=part, signal=None if selector == "random" else TEACHER_ENTROPY)


BANDS = [*((low, low + 10) for low in range(0, 100, 10)), (5, 20), (75, 95)]
SHARES = {
    **{VANILLA: 1.0, TEACHER_FREE: 1.0},
    **{choosing(kind, k_percent=k): k / 100 for kind in ("random", "topk") for k in (10, 15, 20)},
    **{choosing("bucket", lower=low, upper=high): (high - low) / 100 for low, high in BANDS},
}
TOP, BAND = choosing("topk", k_percent=10), choosing("bucket", lower=90, upper=100)  # one choice by two names
SHARED, OWN = 0.05, 0.02  # nats of noise: of a seed, which pairing takes out, and of each run


def sweep(random: np.random.Generator, seeds: int) -> dict[Method, dict[int, float]]:
    """{method: {seed: nats}} where no method matters."""
    common = random.normal(0, SHARED, seeds)
    table = {name: dict(enumerate(1.5 + common + random.normal(0, OWN, seeds))) for name in SHARES}
    return table | {BAND: table[TOP]}


def shows(table: dict[Method, dict[int, float]], seeds: int) -> bool:
    seen = {name: {seed: value for seed, value in kls.items() if seed < seeds} for name, kls in table.items()}
    once = twins_of(seen)
    return any(c.found for c in compare_methods(seen, [pair for pair in comparisons_of(SHARES) if pair[0] not in once]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=10_000)
    sweeps = parser.parse_args().sweeps
    random = np.random.default_rng(0)
    three, six, either = (0, 0, 0)
    for _ in range(sweeps):
        table = sweep(random, 6)
        early, late = shows(table, 3), shows(table, 6)
        three, six, either = three + early, six + late, either + (early or late)
    for label, count in (("three seeds", three), ("six seeds at once", six), ("three, then three more", either)):
        rate = count / sweeps
        print(f"{label:24}{rate:.3f} ± {1.96 * (rate * (1 - rate) / sweeps) ** 0.5:.3f} of {sweeps:,} sweeps")


if __name__ == "__main__":
    main()
