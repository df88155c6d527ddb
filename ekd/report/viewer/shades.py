"""What the tokens of a solution may be shaded and sorted by, all in nats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ekd.report.viewer.student_view import StudentView
from ekd.types import Trace

WORDS = {  # by their names in the page's script
    "entropy": "teacher entropy",
    "sEntropy": "student entropy",
    "kl": "KL(teacher, student)",
    "logprob": "−ln p of the token",
    "gap": "contrast: what the second prompt changes",
    "own": "writer against teacher",
}


def token_shades(trace: Trace, view: StudentView | None) -> dict[str, np.ndarray]:
    """By name, (known rows,) sizes: without sign, of the rows that have a teacher (the student's entropy: of all)."""
    known, log_p = trace.valid, trace.logprobs[np.cumsum(trace.counts) - trace.counts]
    found = {"entropy": trace.entropy[known]}
    if view is not None:
        found |= {"sEntropy": view.entropy, "kl": view.kl[known]}
    found["logprob"] = log_p[known]
    if trace.contrast is not None:
        found["gap"] = (log_p - trace.contrast)[known]
    if trace.log_q is not None:
        found["own"] = (trace.log_q - log_p)[known]
    return {name: np.abs(values.astype(np.float64)) for name, values in found.items()}


def means(shades: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Of one solution; without those of which nothing is known. A token that no draw named is left out of ln p."""
    finite = {name: values[np.isfinite(values)] for name, values in shades.items()}
    return {name: float(values.mean()) for name, values in finite.items() if len(values)}


def darkest(shades: Sequence[Mapping[str, np.ndarray]]) -> list[tuple[str, str, float]]:
    """For every name that some solution has: itself, in words, and the nats of the darkest shade.

    That is for the highest hundredth, in whole halves of a nat, so that the legend is readable.
    """
    out = []
    for name, words in WORDS.items():
        parts = [one[name] for one in shades if name in one]
        if not parts:
            continue
        nats = np.concatenate(parts)
        nats = nats[np.isfinite(nats)]
        out.append((name, words, float(np.ceil(2 * np.percentile(nats, 99)) / 2) or 0.5 if len(nats) else 0.5))
    return out
