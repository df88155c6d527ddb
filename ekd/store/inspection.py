"""What is in a store, for a person: counts, sizes, entropies, and three traces with their forks marked."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from operator import add
from typing import Any, NamedTuple

import numpy as np
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ekd.outside import visible
from ekd.store import certainty
from ekd.store.origin import flat_paths
from ekd.store.store import Store
from ekd.types import Trace

EDGES = (0, 0.001, 0.01, 0.03, 0.1, 0.3, 1, 2, 3, 4, 6, np.inf)  # of the entropy histogram, nats
FORK = 80  # percentile of a trace's entropies from which a token is marked


class Totals(NamedTuple):
    """Sums over traces, so that memory does not grow with the store."""

    traces: int
    prompt: int
    rows: int
    entries: int
    unmatched: int
    stopped: int
    graded: int
    correct: int
    others: int  # traces whose text the teacher did not write
    mass: float
    histogram: np.ndarray
    inexact: int  # rows whose entropy is known only between bounds
    topk: int  # of these, rows where topk's decision is certain
    bucket: int


def store_summary(store: Store, percent: float, lower: float, upper: float) -> tuple[Totals, list[str]]:
    """Totals over all sound traces, and what is wrong with the others."""
    damage: list[str] = []
    totals = Totals(0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, np.zeros(len(EDGES) - 1, np.int64), 0, 0, 0)
    for key in sorted(store.keys()):
        try:
            totals = Totals(*map(add, totals, of(store[key], store.layout.vocab, percent, lower, upper)))
        except ValueError as error:
            damage.append(str(error))
    return totals, damage


def of(trace: Trace, vocab: int, percent: float, lower: float, upper: float) -> Totals:
    valid = trace.valid
    unsure, topk, bucket = 0, 0, 0
    if not trace.exact and valid.any():
        least, most = (side[valid] for side in certainty.bounds(trace, vocab))
        unsure, topk = len(least), int(certainty.topk(least, most, percent).sum())
        bucket = int(certainty.bucket(least, most, lower, upper).sum())
    return Totals(
        traces=1,
        prompt=len(trace.prompt_ids),
        rows=len(valid),
        entries=len(trace.ids),
        unmatched=int((~valid).sum()),
        stopped=int(trace.finish == "stop"),
        graded=int(trace.verdict != ""),
        correct=int(trace.verdict == "correct"),
        others=int(trace.policy not in ("", "teacher")),
        mass=float((1 - np.exp(trace.log_tail[valid])).sum()),
        histogram=np.histogram(trace.entropy[valid], EDGES)[0],
        inexact=unsure,
        topk=topk,
        bucket=bucket,
    )


def store_report(
    store: Store, percent: float, lower: float, upper: float, tokenizer: Any | None, theirs: Any | None = None
) -> Iterator[RenderableType]:
    """Tables and marked text, to be printed one after the other. tokenizer: None shows ids instead of text. theirs: the
    teacher's, where it is another and its reading of the texts is wanted.
    """
    totals, damage = store_summary(store, percent, lower, upper)
    yield from (Text(visible(line), style="red") for line in damage)
    yield facts(store, totals)
    if not totals.rows:
        return
    if totals.inexact:
        yield Text(
            f"Entropies are midpoints of bounds. Certain all the same: topk k={percent:g}% for "
            f"{totals.topk / totals.inexact:.1%} of tokens, bucket {lower:g}-{upper:g} for "
            f"{totals.bucket / totals.inexact:.1%}."
        )
    yield entropy_table(totals)
    for key in sorted(store.keys())[:3]:
        if not any(key in line for line in damage):
            yield marked(store[key], tokenizer)
            if tokenizer is not None and theirs is not None:
                from ekd.store.readings import both_readings  # heavy: imported when asked for

                yield both_readings(store[key], tokenizer, theirs)


def facts(store: Store, totals: Totals) -> Table:
    size = sum(shard["bytes"] for shard in store.shards.values())
    rows, entries = max(totals.rows, 1), max(totals.entries, 1)
    table = Table(title=Text(visible(str(store.path))), show_header=False)
    for name, value in (
        ("traces", f"{totals.traces:,} in {len(store.shards):,} shards; {totals.stopped:,} ended by themselves"),
        ("verdicts", f"{totals.correct:,} of {totals.graded:,} graded texts are right"),
        ("written by", f"{totals.traces - totals.others:,} by the teacher, {totals.others:,} by others"),
        ("teacher's tokenizer", alignment(store.origin)),
        ("tokens", f"{totals.rows:,} of responses, {totals.prompt:,} of prompts"),
        ("on disk", f"{size:,} bytes: {size / rows:.2f} a response token, {size / entries:.2f} an entry"),
        ("entries a row", f"{totals.entries / rows:.2f}"),
        ("mass named", f"{totals.mass / max(totals.rows - totals.unmatched, 1):.4%} on average"),
        ("unmatched rows", f"{totals.unmatched:,} ({totals.unmatched / rows:.2%}): nothing known but their token"),
    ):
        table.add_row(name, value)
    table.add_section()
    for name, origin in flat_paths(store.origin).items():
        if not name.startswith(("tokenizer.added", "tokenizer.prefixes")):
            table.add_row(Text(visible(name)), Text(visible(textwrap.shorten(str(origin), 90))))
    return table


def alignment(origin: dict[str, Any]) -> str:
    """Whose tokens the teacher spoke, and what became of its rows."""
    align = origin.get("align")
    if not isinstance(align, dict):
        return "the rows' own"
    size = f", {align['size']:,} tokens" if isinstance(align.get("size"), int) else ""
    return visible(f"{align.get('tokenizer')}{size}: rows translated by {align.get('by')}")


def entropy_table(totals: Totals) -> Table:
    table = Table(title="entropy of the teacher, nats", show_header=False, box=None)
    whole, most = max(int(totals.histogram.sum()), 1), max(int(totals.histogram.max()), 1)
    for low, high, count in zip(EDGES[:-1], EDGES[1:], totals.histogram, strict=True):
        table.add_row(f"{low:g} to {high:g}", "█" * round(40 * count / most), f"{count / whole:6.2%}")
    return table


def facts_of(trace: Trace) -> str:
    """Of one trace: how it ended, its verdict, who wrote it, and what the teacher read, where that is known."""
    said = [trace.finish, trace.verdict, f"written by {visible(trace.policy)}" if trace.policy else ""]
    if trace.teacher_prompt_ids is not None:
        said.append(f"the teacher read {len(trace.teacher_prompt_ids)} tokens, the student {len(trace.prompt_ids)}")
    return ", ".join(part for part in said if part)


def marked(trace: Trace, tokenizer: Any | None, most: int = 120) -> Text:
    """The first tokens of a response; a fork (entropy in the trace's top fifth) stands out, with its alternatives."""
    title = f"\n{visible(trace.problem_id)} sample {trace.sample} ({facts_of(trace)}), forks marked\n"
    text = Text(title, style="bold")
    fork = trace.entropy >= np.percentile(trace.entropy, FORK) if len(trace.entropy) else trace.valid
    first = np.cumsum(trace.counts) - trace.counts

    def words(token: int) -> str:
        return visible(tokenizer.decode([token])) if tokenizer is not None else f"⟨{token}⟩"

    for row in range(min(len(trace.response_ids), most)):
        text.append(words(int(trace.response_ids[row])), style="bold red underline" if fork[row] else "")
        if fork[row] and trace.counts[row] > 1:
            other = words(int(trace.ids[first[row] + 1])).strip()
            text.append(f"[{trace.entropy[row]:.1f}|{other}]", style="dim red")
    text.append(" ..." if len(trace.response_ids) > most else "")
    return text
