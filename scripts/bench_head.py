"""What distillation costs at the LM head: ekd beside dense KD, TRL, Liger, select-after-logits and the bare products.

    python scripts/bench_head.py                    every table, written to docs/bench_head.md
    python scripts/bench_head.py --quick            small sizes, printed only

Each variant has a process of its own. There, rounds of one call of the bare matrix products (h W^T, dz W, dz^T h: what
the rows need and nothing else) and one call of the variant (forward and backward) follow each other, so that both see
the same machine; the table gives the median over rounds of variant / bare. Memory is the peak of the resident set in a
call, beyond what was there before and beyond the gradients of hidden and W themselves. fp32, random weights and rows.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
BUDGET_MB = 96
SHARE = 0.2
K = 20
SIZES = {"SmolLM2": (2048, 576, 49152), "Qwen3-0.6B": (512, 1024, 151936)}
QUICK = {"small": (256, 64, 8192)}
GROWTH = (512, 1024, 2048, 4096, 8192, 16384)
# name -> which rows it is about, for the reader; "all" is compared with the bare products of all rows
VARIANTS = {
    "ekd": "all",
    "ekd_20": "20%",
    "ekd_stats": "all",
    "dense": "all",
    "select_after": "20%",
    "trl_dense": "all",
    "trl_chunked": "all",
    "liger_chunked": "all",
    "liger_chunked_20": "20%",
    "liger_compiled": "all",
    "liger_triton": "all",
}
TITLES = {
    "ekd": "**ekd**, every row",
    "ekd_20": "**ekd**, 20% of the rows",
    "ekd_stats": "ekd's student pass (`stats`: entropy, masses, argmax; no gradient), every row",
    "dense": "plain dense KD: log_softmax of both, KL, every row",
    "select_after": "logits of every row, then KD on 20% of them (as the original)",
    "trl_dense": "TRL `GKDTrainer.generalized_jsd_loss`, every row",
    "trl_chunked": "TRL `ChunkedDivergenceFunction`, every row",
    "liger_chunked": "Liger `LigerFusedLinearJSDLoss(compiled=False)`, every row",
    "liger_chunked_20": "the same, given 20% of the rows",
    "liger_compiled": "Liger `LigerFusedLinearJSDLoss(compiled=True)`, every row",
    "liger_triton": "Liger `LigerFusedLinearJSD` (Triton), every row",
}
Step = Callable[[], object]


def inputs(n: int, h: int, v: int, needs_logits: bool):  # type: ignore[no-untyped-def]
    """hidden (n,h), weight (v,h), teacher's logits (n,v) or None, its top K rows, the chosen 20%."""
    import torch

    torch.manual_seed(0)
    hidden, weight = torch.randn(n, h), torch.randn(v, h) * 0.05
    ids, log_p = torch.empty(n, K, dtype=torch.long), torch.empty(n, K + 1)
    teacher = torch.empty(n, v) if needs_logits else None
    for i in range(0, n, 128):
        z = torch.randn(len(hidden[i : i + 128]), v) * 3
        top, ids[i : i + 128] = z.log_softmax(1).topk(K)
        log_p[i : i + 128] = torch.cat([top, torch.log1p(-top.exp().sum(1, keepdim=True))], 1)
        if teacher is not None:
            teacher[i : i + 128] = z
    keep = torch.randperm(n)[: int(SHARE * n)].sort().values
    return hidden.requires_grad_(), weight.requires_grad_(), teacher, ids, log_p, keep


def bare(hidden, weight) -> Step:  # type: ignore[no-untyped-def]
    def step() -> object:
        import torch

        with torch.no_grad():
            z = hidden @ weight.t()
            return z @ weight, z.t() @ hidden

    return step


def step_of(name: str, n: int, h: int, v: int) -> tuple[Step, Step, list]:
    """The variant, the bare products of the rows that it is about, and the leaves that get gradients."""
    import torch
    import torch.nn.functional as F

    dense = name in ("dense", "select_after", "trl_dense")
    hidden, weight, teacher, ids, log_p, keep = inputs(n, h, v, dense)
    few = hidden.detach()[keep].requires_grad_()
    chosen = VARIANTS[name] == "20%"
    floor = bare(few if chosen else hidden, weight)
    leaves = [few if name in ("ekd_20", "liger_chunked_20") else hidden, weight]

    if name in ("ekd", "ekd_20", "ekd_stats"):
        from ekd.loss.forward_kl import ForwardKL
        from ekd.models.head import Head, distill, stats

        x, i, p = (few, ids[keep], log_p[keep]) if chosen else (hidden, ids, log_p)
        if name == "ekd_stats":
            return lambda: stats(x, Head(weight), i, budget_mb=BUDGET_MB), floor, []

        def loss():  # type: ignore[no-untyped-def]
            return distill(x, Head(weight), i, p, torch.ones(len(x)), ForwardKL(), budget_mb=BUDGET_MB)[0]
    elif name == "dense":

        def loss():  # type: ignore[no-untyped-def]
            p, q = teacher.log_softmax(-1), (hidden @ weight.t()).log_softmax(-1)
            return F.kl_div(q, p, reduction="sum", log_target=True)
    elif name == "select_after":

        def loss():  # type: ignore[no-untyped-def]
            p, q = teacher[keep].log_softmax(-1), (hidden @ weight.t())[keep].log_softmax(-1)
            return F.kl_div(q, p, reduction="sum", log_target=True)
    elif name == "trl_dense":
        from trl.experimental.gkd import GKDTrainer

        def loss():  # type: ignore[no-untyped-def]
            return GKDTrainer.generalized_jsd_loss(hidden @ weight.t(), teacher, beta=0.0, reduction="sum")
    else:
        # These make the teacher's logits themselves: it gets a hidden size of 8, so that they come for nothing.
        x = few if chosen else hidden
        t_hidden, t_weight = torch.randn(len(x), 8), torch.randn(v, 8)
        loss = peer(name, x, weight, t_hidden, t_weight)

    return stepped(loss, leaves), floor, leaves


def stepped(loss: Callable, leaves: list) -> Step:
    def step() -> object:
        for leaf in leaves:
            leaf.grad = None
        total = loss()
        total.backward()
        return total

    return step


def peer(name: str, hidden, weight, t_hidden, t_weight) -> Callable:  # type: ignore[no-untyped-def]
    import torch

    if name == "trl_chunked":
        from trl.kernels.chunked_divergence import ChunkedDivergenceFunction as Chunked

        options = (0.0, 1.0, 1.0, None, 1.0, None)  # beta, temperature, scale and soft cap of each side
        return lambda: Chunked.apply(hidden, weight, None, t_hidden, t_weight, None, *options)[0].sum()
    target = torch.zeros(len(hidden), dtype=torch.long)
    if name == "liger_triton":
        from liger_kernel.transformers import LigerFusedLinearJSD

        fused = LigerFusedLinearJSD(jsd_beta=0.0)
        return lambda: fused(hidden, weight, t_hidden, t_weight, target)
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    compiled = name == "liger_compiled"
    liger = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.5, compiled=compiled)
    return lambda: liger(hidden, weight, t_hidden, t_weight, target)


def peak_mb(step: Step) -> float:
    """Growth of the resident set at its highest during a call (Linux: VmHWM, reset through clear_refs)."""

    def read(key: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return float(next(line for line in lines if line.startswith(key)).split()[1]) / 1024

    ctypes.CDLL(None).malloc_trim(0)  # what was freed before is not to be used again unseen
    before = read("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    kept = step()  # keeps what it returns alive until the peak is read
    peak = read("VmHWM")
    del kept
    return peak - before


def work(name: str, n: int, h: int, v: int, rounds: int) -> dict:
    """In the variant's own process."""
    step, floor, leaves = step_of(name, n, h, v)
    step()  # libraries load, code compiles
    for leaf in leaves:
        leaf.grad = None
    grads = sum(leaf.numel() * leaf.element_size() for leaf in leaves) / 2**20
    memory = peak_mb(step) - grads
    clocks: list[tuple[float, ...]] = []
    for _ in range(rounds):
        marks = []
        for call in (floor, step):
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            marks += [time.perf_counter() - wall, time.process_time() - cpu]
        clocks.append(tuple(marks))
    if not clocks:
        return {"memory_mb": memory}
    return {
        "memory_mb": memory,
        "bare_s": median(c[0] for c in clocks),
        "ratio": median(c[2] / c[0] for c in clocks),
        "cpu_ratio": median(c[3] / c[1] for c in clocks),
        "spread": [min(c[2] / c[0] for c in clocks), max(c[2] / c[0] for c in clocks)],
    }


def launch(name: str, size: tuple[int, int, int], rounds: int) -> dict:
    """A result, or {"error": why it does not run}."""
    command = [sys.executable, __file__, "--worker", name, *map(str, size), str(rounds)]
    env = {**os.environ, "TRL_EXPERIMENTAL_SILENCE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0:
        print(f"{name:18} {lines[-1]}", flush=True)
        return json.loads(lines[-1])
    why = (done.stderr.strip().splitlines() or ["no message"])[-1]
    print(f"{name:18} {why}", flush=True)
    return {"error": why[:160]}


def table(size: tuple[int, int, int], results: dict[str, dict]) -> list[str]:
    ran = {name: r for name, r in results.items() if "error" not in r}
    bare_all = median(r["bare_s"] for name, r in ran.items() if VARIANTS[name] == "all")
    lines = [
        "| variant | time / bare products of its rows | of every row | range over rounds | CPU time | memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    for name, r in ran.items():
        rows = 1.0 if VARIANTS[name] == "all" else r["bare_s"] / bare_all
        low, high = r["spread"]
        lines.append(
            f"| {TITLES[name]} | {r['ratio']:.2f} | {r['ratio'] * rows:.2f} | {low:.2f} – {high:.2f} | "
            f"{r['cpu_ratio']:.2f} | {r['memory_mb']:.0f} |"
        )
    lines.append("")
    lines += [f"Did not run here: {TITLES[name]}: `{r['error']}`" for name, r in results.items() if "error" in r]
    return lines


def report(sections: list[str]) -> str:
    def text(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip()

    def installed(package: str) -> str:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            return f"{package} not installed"

    about = (__doc__ or "").split("\n\n", 2)[2].strip()
    packages = ", ".join(installed(p) for p in ("torch", "trl", "liger-kernel", "transformers"))
    head = [
        "# The head: time and memory beside other tools",
        f"`python scripts/bench_head.py` at commit {text('git', 'rev-parse', '--short', 'HEAD')}; "
        f"{os.cpu_count()} cores, {packages}. Made by the script: do not edit.",
        about,
        f"K = {K} known ids a row; ekd's budget for logits is {BUDGET_MB} MB. TRL's chunked loss and Liger's make the "
        "teacher's logits themselves: they get a teacher with a hidden size of 8, so that these cost next to nothing. "
        "Liger prices the JSD (beta 0.5), the others the forward KL.",
    ]
    return "\n\n".join([*head, *sections]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, printed only")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--worker", nargs=5, metavar=("NAME", "N", "H", "V", "ROUNDS"), help="for the script itself")
    args = parser.parse_args()
    if args.worker:
        name, *numbers = args.worker
        print(json.dumps(work(name, *map(int, numbers))))
        return
    sections = []
    for title, size in (QUICK if args.quick else SIZES).items():
        results = {name: launch(name, size, args.rounds) for name in VARIANTS}
        shape = "N = {:,} rows, H = {:,}, V = {:,}".format(*size)
        sections.append("\n".join([f"## {title}: {shape}", "", *table(size, results)]))
    growth = ["## Memory against rows", "", "H = 576, V = 49,152, every row, beyond inputs and gradients.", ""]
    growth += ["| rows | MB |", "|---|---|"]
    for n in (256, 1024) if args.quick else GROWTH:
        growth.append(f"| {n:,} | {launch('ekd', (n, 576, 49152), 0)['memory_mb']:.0f} |")
    sections.append("\n".join(growth))
    text = report(sections)
    if not args.quick:
        (ROOT / "docs" / "bench_head.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
