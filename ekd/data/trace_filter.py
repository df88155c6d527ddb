"""The sample axis: which whole traces are trained on, decided before training and never inside a batch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import nn

from ekd.data.batch_sampler import pack
from ekd.data.cached import Samples
from ekd.data.collate import Collate
from ekd.data.traces import Traces
from ekd.files import Damaged, home, read_json, write_json
from ekd.models.progress import tracked
from ekd.models.reader import read_batch
from ekd.models.rows import matched, rows_where, top_of
from ekd.models.spec import ModelSpec
from ekd.store.location import local_folder
from ekd.store.store import Store
from ekd.types import Rows, Signal

SAVE_SECONDS = 20.0  # a kill loses at most so much scoring


@dataclass(frozen=True, kw_only=True)
class RandomSamples:
    """`percent` of the traces by chance, whatever their order: the control for `TopSamples` at the same share.

        keep the ceil(percent n / 100) first by lot

    Source: the control of Tavor et al. 2026 (SE-KD), arXiv 2602.01395.
    """

    percent: float
    seed: int

    def __post_init__(self) -> None:
        check_samples_percent(self.percent)

    def keep(self, store: Store, keys: Sequence[str]) -> list[str]:
        """-> the kept keys, in the order given."""
        lot = {key: hashlib.sha256(f"{self.seed}:{key}".encode()).hexdigest() for key in keys}
        return first(keys, sorted(keys, key=lambda key: lot[key]), self.percent)


@dataclass(frozen=True, kw_only=True)
class TopSamples:
    """The `percent` of the traces with the highest mean score over their rows; ties go to the earliest.

        keep the ceil(percent n / 100) highest by S = sum_t s_t / rows

    by: the signal, seen through the student as it is before training (model, layers, dtype, attention, quantize,
    trust_remote_code: see `ekd.models.spec.ModelSpec`). Each trace is scored by itself, so batches (max_tokens,
    head_mb) do not matter. Scores are kept beside the store (under EKD_HOME where it cannot be written), so that they
    are made once for each student and signal.

    Source: Tavor et al. 2026, "Rethinking Selective Knowledge Distillation" (SE-KD 3X), arXiv 2602.01395.
    """

    percent: float
    by: Signal
    model: str
    layers: Sequence[int] | str
    dtype: str
    attention: str
    quantize: str | None
    trust_remote_code: bool
    max_tokens: int
    head_mb: float

    def __post_init__(self) -> None:
        check_samples_percent(self.percent)
        if isinstance(self.by, nn.Module):
            raise ValueError(
                f"data.samples.by={self.by} learns while it runs and knows nothing before training; take another "
                "signal, e.g. signal@data.samples.by=student_entropy"
            )

    def keep(self, store: Store, keys: Sequence[str]) -> list[str]:
        """-> the kept keys, in the order given. Scores what has no score yet."""
        scores = self.scores(store, keys)
        low, high = min(scores[key] for key in keys), max(scores[key] for key in keys)
        if self.percent < 100 and len(keys) > 1 and not high - low > 1e-5 * (1 + abs(high)):
            raise ValueError(
                f"data.samples.by={self.by} gives every trace the same mean, {high:.4g}, so it cannot rank them; a "
                "weighted signal ranks traces with normalise=none"
            )
        return first(keys, sorted(keys, key=lambda key: -scores[key]), self.percent)

    def scores(self, store: Store, keys: Sequence[str]) -> dict[str, float]:
        """The mean score of each trace, from the cache where it is there; -inf for one without a teacher's row."""
        made_by = self.made_by()
        places = files(store, made_by)
        scores = {key: score for file in places if file.exists() for key, score in kept_scores(file).items()}
        missing = [key for key in keys if key not in scores]
        saved = monotonic()
        try:
            for key, score in self.score(store, missing) if missing else ():
                scores[key] = score
                if monotonic() - saved > SAVE_SECONDS:
                    save_scores(places, made_by, scores)
                    saved = monotonic()
        finally:
            if missing:
                save_scores(places, made_by, scores)
        return scores

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec.of(vars(self), device="auto")

    def made_by(self) -> dict[str, Any]:
        """What decides a trace's score, beside the trace."""
        return {"student": self.spec.origin(), "signal": repr(self.by), "ekd": version("ekd").split(".")[0]}

    @torch.inference_mode()
    def score(self, store: Store, keys: Sequence[str]) -> Iterator[tuple[str, float]]:
        model, top = self.spec.load().eval(), top_of(self.by)
        traces, collate = Traces(store, keys), Collate(store.origin["vocab"], draws=store.layout.draws > 0)
        order = sorted(range(len(keys)), key=lambda i: traces.lengths[i])
        for indices in tracked(pack(order, traces.lengths, self.max_tokens), "scoring samples", transient=True):
            batch = collate([traces[i] for i in indices])
            _, rows = read_batch(model, batch, budget_mb=self.head_mb, top=top)
            rows = matched(rows)
            for place, index in enumerate(indices):
                yield keys[index], mean_score(self.by, rows_where(rows, rows.sequence == place))


@dataclass(frozen=True, kw_only=True)
class CorrectSamples:
    """The traces whose text solves its problem.

        keep those of which the dataset's grader says: correct

    then: which of these, e.g. a share of them by chance; None: all.

    Source: rejection sampling, e.g. Yuan et al. 2023, arXiv 2308.01825.
    """

    then: Samples | None

    def keep(self, store: Store, keys: Sequence[str]) -> list[str]:
        """-> the kept keys, in order. Raises ValueError for texts without a verdict, and where none is right."""
        verdicts = store.verdicts()
        unknown = [key for key in keys if not verdicts[key]]
        if unknown:
            raise ValueError(
                f"data/samples=correct: {len(unknown)} of {len(keys)} traces lack a verdict in {store.path} (plain "
                "text, or made by an ekd that did not grade): trace them into another store "
                "(data.collector.store=FOLDER)"
            )
        right = [key for key in keys if verdicts[key] == "correct"]
        if not right:
            raise ValueError(
                f"data/samples=correct: none of the {len(keys)} texts in {store.path} solves its problem, so nothing "
                "is left to train on: take a better teacher, longer answers, or data/samples=null"
            )
        return right if self.then is None else self.then.keep(store, right)


def check_samples_percent(percent: float) -> None:
    if not 0 < percent <= 100:
        raise ValueError(f"data.samples.percent is above 0 and at most 100, not {percent}; data/samples=null keeps all")


def first(keys: Sequence[str], ranked: Sequence[str], percent: float) -> list[str]:
    """The best ceil(percent n / 100), at least one, in the order of `keys`."""
    kept = set(ranked[: max(1, math.ceil(round(percent * len(keys) / 100, 9)))])
    return [key for key in keys if key in kept]


def mean_score(signal: Signal, rows: Rows) -> float:
    if not len(rows.valid):
        return -math.inf
    score = float(signal(rows).double().mean())
    if not math.isfinite(score):
        raise ValueError(f"data.samples.by={signal} gives a trace the score {score}; take another signal")
    return score


def files(store: Store, made_by: dict[str, Any]) -> tuple[Path, Path]:
    """Beside the traces and, for a store that cannot be written, among what ekd keeps."""
    beside, apart = (
        hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
        for what in (made_by, [store.origin, made_by])
    )
    return local_folder(store.path) / "scores" / f"{beside}.json", home() / "scores" / f"{apart}.json"


def kept_scores(file: Path) -> dict[str, float]:
    try:
        scores = read_json(file).get("scores")
        if not isinstance(scores, dict) or not all(type(s) is float and not math.isnan(s) for s in scores.values()):
            raise Damaged(f"{file} is damaged (it holds no scores)")
    except Damaged as error:
        raise Damaged(f"{error}: delete it, and its traces are scored again") from None
    return scores


def save_scores(places: Sequence[Path], made_by: dict[str, Any], scores: dict[str, float]) -> None:
    """In the first place that can be written."""
    refused: list[str] = []
    for file in places:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            return write_json(file, {**made_by, "scores": scores})
        except OSError as error:
            refused.append(str(error))
    raise ValueError(f"the scores of samples cannot be kept ({'; '.join(refused)}): make room, or set EKD_HOME")
