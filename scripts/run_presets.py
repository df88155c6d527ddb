"""Runs every preset through the real command line on the smallest models, and says whether its loss falls.

python scripts/run_presets.py                      # 150 steps of each; a table; exit 1 if one failed or did not learn
python scripts/run_presets.py --steps 20 ekd tip   # some of them
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from methods_table import ROOT, presets, table

SETTING = ["benchmark.problems=0", "trainer.val_check_interval=1000000", "trainer.log_every_n_steps=1"]


class Result(NamedTuple):
    preset: str
    error: str  # "" when it ran
    kl: tuple[float, float] = (0.0, 0.0)  # held out, before and after
    loss: tuple[float, float] = (0.0, 0.0)  # train, mean of the first and the last tenth of the steps
    selected: float = 0.0

    @property
    def learned(self) -> bool:
        return not self.error and (self.kl[1] < self.kl[0] or self.loss[1] < self.loss[0])


def run(preset: str, steps: int, folder: Path) -> Result:
    words = [f"experiment=[tiny,{preset}]", f"trainer.max_steps={steps}", f"hydra.run.dir={folder / preset}", *SETTING]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "EKD_HOME": str(folder / "home")}
    command = [sys.executable, "-m", "ekd.train", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return Result(preset, (done.stderr.strip().splitlines() or ["no message"])[-1])
    figures = json.loads((folder / preset / "metrics.json").read_text())["figures"]
    with (folder / preset / "csv" / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]
    share = max(1, len(losses) // 10)
    ends = sum(losses[:share]) / share, sum(losses[-share:]) / share
    kl = figures["before"]["val/kl"], figures["after"]["val/kl"]
    return Result(preset, "", kl, ends, figures["train"]["selected"])


def line(result: Result) -> list[str]:
    if result.error:
        return [f"`{result.preset}`", result.error, "", ""]
    kl, loss = (f"{before:.3f} to {after:.3f}" for before, after in (result.kl, result.loss))
    return [f"`{result.preset}`", kl, loss, f"{result.selected:.1%}"]


def main() -> int:
    parser = argparse.ArgumentParser(description="Run every preset on the smallest models and say whether it learns.")
    parser.add_argument("preset", nargs="*", help="default: all")
    parser.add_argument("--steps", type=int, default=150)
    asked = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.preset or [path.stem for path in presets()]:
            results.append(run(name, asked.steps, Path(folder)))
            print(f"{name}: {' | '.join(line(results[-1])[1:])}", file=sys.stderr, flush=True)
    print(
        table(
            ["preset", "held-out KL", "train loss, first and last tenth", "tokens selected"], [line(r) for r in results]
        )
    )
    bad = [result.preset for result in results if not result.learned]
    print(f"failed or did not learn: {', '.join(bad)}" if bad else f"all {len(results)} ran, and learned")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
