"""What one run found, as a table for a person."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from ekd.eval.metrics import accuracy


def outcome_table(figures: dict[str, Any]) -> Table:
    """figures: as in metrics.json."""
    view = Table(title="what came out", show_header=False, title_justify="left")
    before, after = figures.get("before", {}), figures["after"]
    for name, label in (
        ("kl", "KL to the teacher"),
        ("agreement", "top-1 agreement with the teacher"),
        ("ce", "cross entropy"),
    ):
        start = f"{before[f'val/{name}']:.4f} → " if before else ""
        view.add_row(f"held-out {label}", f"{start}{after[f'val/{name}']:.4f}")
    for who, result in figures["benchmark"].items():
        view.add_row(f"accuracy, {who}", accuracy(result))
    train = figures["train"]
    view.add_row("tokens selected", f"{100 * train['selected']:.1f}% ({train['supervised_tokens']:,} in all)")
    view.add_row("training speed", f"{train['tokens_per_second']:,.0f} response tokens/s")
    view.add_row("peak memory", f"{figures['peak_memory_gb']:.2f} GB")
    step = figures.get("step_memory_gb")
    if step:
        view.add_row("memory of training", f"{step['measured']:.2f} GB measured, {step['planned']:.2f} GB planned")
    view.add_row("time", f"{figures['minutes']:.1f} minutes")
    return view
