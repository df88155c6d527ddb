"""What was trained on, by whose it is: for the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ekd.store.store import Store

MOST = 1000  # traces of a store whose rows are looked at; more would not show another picture


class Taught(NamedTuple):
    """Traces of one store, so of one teacher."""

    store: Store
    keys: Sequence[str]

    def entropies(self) -> Iterator[np.ndarray]:
        """Of the first MOST traces: (n,) nats, of the rows that have a teacher."""
        for key in self.keys[:MOST]:
            trace = self.store[key]
            yield trace.entropy[trace.valid]


def entropy_histogram(some: Sequence[Taught]) -> dict[str, list[float]]:
    """Of the teachers' entropy, nats."""
    rows = np.concatenate([row for seen in some for row in seen.entropies()])
    counts, edges = np.histogram(rows.astype(np.float64), bins=50)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def by_teacher(some: Sequence[Taught]) -> list[dict[str, str | float]]:
    """One entry a store: whose rows, how many texts, of these graded and right, their tokens, mean entropy in nats."""
    found: list[dict[str, str | float]] = []
    for seen in some:
        lengths, verdicts = seen.store.lengths(), seen.store.verdicts()
        said = [verdicts[key] for key in seen.keys]
        rows = np.concatenate([np.zeros(0, np.float32), *seen.entropies()])
        found.append({
            "teacher": seen.store.teacher,
            "store": str(seen.store.path),
            "texts": len(seen.keys),
            "tokens": sum(lengths[key][1] for key in seen.keys),
            "graded": sum(verdict != "" for verdict in said),
            "right": said.count("correct"),
            "rows": len(rows),
            "entropy": float(rows.mean(dtype=np.float64)) if len(rows) else 0.0,
        })  # fmt: skip
    return found
