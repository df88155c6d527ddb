"""How often a sweep in which nothing matters shows a difference, when seeds are added after looking.

    python scripts/added_seeds.py

The methods are the CPU study's, 32 comparisons that share their controls, corrected by Holm as in its report. Seeds are
drawn at once, or three are looked at and three more are run for every method where those show nothing.
"""

from __future__ import annotations

import argparse

import numpy as np

from ekd.report.effects import compare
from ekd.report.method import pairs, twins

METHODS = [
    "vanilla", "teacher_free", "random_10", "random_15", "random_20", "topk_10", "topk_15", "topk_20",
    *(f"bucket_{low}_{low + 10}" for low in range(0, 100, 10)), "bucket_5_20", "bucket_75_95",
]  # fmt: skip
SHARED, OWN = 0.05, 0.02  # nats of noise: of a seed, which pairing takes out, and of each run


def sweep(random: np.random.Generator, seeds: int) -> dict[str, dict[int, float]]:
    """{method: {seed: nats}} where no method matters; bucket_90_100 is topk_10 by another name, as it was there."""
    common = random.normal(0, SHARED, seeds)
    table = {name: dict(enumerate(1.5 + common + random.normal(0, OWN, seeds))) for name in METHODS}
    return table | {"bucket_90_100": table["topk_10"]}


def shows(table: dict[str, dict[int, float]], seeds: int) -> bool:
    seen = {name: {seed: value for seed, value in kls.items() if seed < seeds} for name, kls in table.items()}
    once = twins(seen)
    return any(c.found for c in compare(seen, [pair for pair in pairs(METHODS) if pair[0] not in once]))


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
