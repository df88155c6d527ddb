"""What a whole training step of a cut student costs beyond the arithmetic that no method can avoid.

    flock FILE python scripts/bench_step.py            the table, written to docs/bench_step.md
    python scripts/bench_step.py --rounds 3 --only topk    printed only

Floor: the decoder forward and backward on the same batch, what rows begin with read once as a step does, and the three
bare products of the head (h W^T, dz W, dz^T h) for the chosen rows. Step: everything Lightning does between the start
and the end of a batch: training_step, backward, the reduction, logging. The optimizer and gradient clipping are part of
neither side. Each variant has a process of its own, in which a floor and a step on the same batch follow each other;
the table gives the median of their ratios.
Real traces: of experiment=tiny_student (SmolLM2 over worked solutions); collected first where they are not there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

ROOT = Path(__file__).parents[1]
TOPK = ["selector=topk", "selector.k_percent=20"]
TITLES = {
    "vanilla": ("every row", ["selector=vanilla"]),
    "topk": ("20% by teacher entropy", TOPK),
    "student": ("20% by student entropy (a pass of the head more)", [*TOPK, "signal=student_entropy"]),
    "packed": ("20% by teacher entropy, `data.packing=true` with sdpa", [*TOPK, "data.packing=true"]),
    "checkpointed": ("20%, gradient checkpointing", [*TOPK, "student.gradient_checkpointing=true"]),
}


def compose(words: list[str]) -> Any:
    import hydra

    from ekd.cli.door import CONF

    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("train", ["experiment=tiny_student", *words])


def peak_mb() -> float:
    """The resident set's peak since the last call, MB; Linux only."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def floor(student: Any, batch: Any, chosen: int) -> None:
    """Decoder forward and backward, what rows begin with read once as a step does; the head's bare products for as many
    rows, in chunks as the head makes them.
    """
    import torch

    from ekd.models.head import head_of
    from ekd.models.prefix import can_share
    from ekd.models.reader import response_hidden

    model, budget = student.model, student.objective.head_mb
    hidden = response_hidden(model.get_decoder().__call__, batch, share=can_share(model))
    weight = head_of(model).weight.detach()
    rows = hidden.detach()[:chosen]
    dw = torch.zeros_like(weight)
    for part in rows.split(max(1, int(budget * 2**20 / weight.shape[0] / 4))):
        z = part @ weight.t()
        z @ weight
        dw.addmm_(z.t(), part)
    hidden.backward(torch.ones_like(hidden))
    model.zero_grad(set_to_none=True)


def measure(name: str, rounds: int, batches: int) -> dict[str, Any]:
    """In a process of its own."""
    import lightning as L
    import torch

    from ekd.cli.door import build

    class Still(torch.optim.SGD):
        """Asks for gradients and does nothing with them."""

        def step(self, closure: Any = None) -> Any:
            return closure()

    class Watch(L.Callback):
        seconds: list[tuple[float, float]] = []  # noqa: RUF012 (one instance)
        peaks: list[tuple[float, float]] = []  # noqa: RUF012
        rows: list[tuple[int, int, int]] = []  # noqa: RUF012

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            module.zero_grad(set_to_none=True)
            with torch.no_grad():
                weight, _ = module.weigh(module.hidden(batch), head_of(module.model), batch.rows)
            chosen = int((weight > 0).sum())
            self.rows.append((batch.input_ids.numel(), len(weight), chosen))
            peak_mb()
            began = perf_counter()
            floor(module, batch, chosen)
            self.floor, self.floor_peak = perf_counter() - began, peak_mb()
            self.began = perf_counter()

        def on_train_batch_end(self, *_: Any) -> None:
            self.seconds.append((self.floor, perf_counter() - self.began))
            self.peaks.append((self.floor_peak, peak_mb()))

    from ekd.models.head import head_of

    config = compose([*TITLES[name][1], f"data.train_problems={12 * batches}", "data.val_problems=1"])
    data, student = build(config.data), build(config.student)
    student.pace = replace(student.pace, optimizer=lambda parameters: Still(parameters, lr=0.0))
    watch = Watch()
    trainer = L.Trainer(
        accelerator="cpu", max_steps=rounds + 2, limit_val_batches=0, logger=False, callbacks=[watch],
        use_distributed_sampler=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(student, data)
    return medians(watch.seconds[2:], watch.peaks[2:], watch.rows[2:]) | {"threads": torch.get_num_threads()}


def medians(
    pairs: list[tuple[float, float]], peaks: list[tuple[float, float]], rows: list[tuple[int, int, int]]
) -> dict[str, Any]:
    """pairs, peaks: of floor and step. rows: tokens, rows, chosen rows."""
    return {
        "ratio": median(step / bare for bare, step in pairs),
        "floor": median(bare for bare, _ in pairs),
        "step": median(step for _, step in pairs),
        "extra_mb": median(step - bare for bare, step in peaks),
        **{key: median(r[i] for r in rows) for i, key in enumerate(("tokens", "rows", "chosen"))},
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| rows that pay | step / floor | step, s | floor, s | peak memory beyond the floor's | tokens, rows, chosen |",
        "|---|---|---|---|---|---|",
    ]
    for name, f in found.items():
        counts = f"{f['tokens']:,.0f}, {f['rows']:,.0f}, {f['chosen']:,.0f}"
        times = f"**{f['ratio']:.2f}** | {f['step']:.2f} | {f['floor']:.2f}"
        lines.append(f"| {TITLES[name][0]} | {times} | {f['extra_mb']:+.0f} MB | {counts} |")
    if {"topk", "student"} <= set(found):
        extra = found["student"]["ratio"] / found["topk"]["ratio"] - 1
        lines += [
            "",
            f"The student's own view (`signal=student_entropy`) costs {100 * extra:.0f}% of a training step more.",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--only", nargs="*", default=list(TITLES), choices=list(TITLES))
    parser.add_argument("--measure", choices=list(TITLES), help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.measure:
        print("\n" + json.dumps(measure(words.measure, words.rounds, words.batches)))
        return
    found = {}
    for name in words.only:
        command = [
            sys.executable,
            __file__,
            "--measure",
            name,
            "--rounds",
            str(words.rounds),
            "--batches",
            str(words.batches),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, found[name], flush=True)
    print(table(found))
    if words.only == list(TITLES):
        (ROOT / "docs" / "bench_step.md").write_text(page(found))


def page(found: dict[str, dict[str, Any]]) -> str:
    threads = next(iter(found.values()))["threads"]
    about = (__doc__ or "").split("\n\n")
    made = f"Made by `python scripts/bench_step.py`, {threads} threads, fp32."
    return f"# A whole training step\n\n{made}\n\n{about[-1]}\n{table(found)}\n"


if __name__ == "__main__":
    main()
