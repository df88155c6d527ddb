"""One round of the student's own texts: who writes them, how they become batches, and what there is to say of them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from transformers import PreTrainedModel

from ekd.data.policy import Sampling
from ekd.models.repeats import cut_repeats, repeated
from ekd.types import Request, Text, Trace


class Writes(Protocol):
    """What rounds need of the student: its weights as they are now."""

    model: PreTrainedModel

    def origin(self) -> dict[str, Any]: ...


@dataclass(kw_only=True)
class LivePolicy:
    """The student in the middle of its training. end: see `ekd.models.load.end_ids`; context: of its precision."""

    student: Writes
    end: set[int]
    sampling: Sampling
    stop_repeats: bool
    context: Callable[[], AbstractContextManager[Any]]
    number: int = 0  # of the round that is written

    @property
    def name(self) -> str:
        return f"student@{self.number}"

    @property
    def batch_size(self) -> int:
        return self.sampling.batch_size

    def origin(self) -> dict[str, Any]:
        made = {"type": "student@round", "stop_repeats": self.stop_repeats}
        return {**self.student.origin(), **self.sampling.origin(), **made}

    def write(self, batch: Sequence[Request]) -> list[Text]:
        """In eval mode, and from seeds of the requests: the run's own random numbers stay as they are."""
        model = self.student.model
        training = model.training
        model.eval()
        try:
            with self.context():
                texts = self.sampling.write(model, self.end, batch)
        finally:
            model.train(training)
        return [shortened(text) if self._endless(text) else text for text in texts]

    def _endless(self, text: Text) -> bool:
        return self.stop_repeats and text.finish == "length"


def shortened(text: Text) -> Text:
    """The same without what it repeats."""
    ids = cut_repeats(text.ids)
    return text._replace(ids=ids, log_q=text.log_q and text.log_q[: len(ids)])


def of_round(requests: Sequence[Request], number: int, seed: int, run: str) -> list[Request]:
    """The same requests as those of one round: a key for the run, whose weights write, and a seed that does not depend
    on the run, so that equal weights write equal texts.
    """
    out = []
    for request in requests:
        made = [number, seed, request.key, request.sample]
        chance = hashlib.sha256(json.dumps(made).encode()).hexdigest()
        key = hashlib.sha256(json.dumps([run, *made]).encode()).hexdigest()
        out.append(request._replace(key=key[:32], seed=int(chance[:12], 16)))
    return out


def sampled(requests: Sequence[Request], samples: int) -> list[Request]:
    """Each `samples` times. One that is there again, where a pass over the problems ends within a round and the next
    begins, or a round has more problems than there are, is sampled further: equal requests would be one text.
    """
    seen: Counter[str] = Counter()
    out = []
    for request in requests:
        out += [request._replace(sample=seen[request.key] + n) for n in range(samples)]
        seen[request.key] += samples
    return out


def turn(count: int, size: int, number: int, seed: int) -> list[int]:
    """Places of the problems of a round: `size` of an endless stream of shuffled passes over `count`."""
    stream = range(number * size, (number + 1) * size)
    orders = {n: np.random.default_rng([seed, n]).permutation(count) for n in {i // count for i in stream}}
    return [int(orders[i // count][i % count]) for i in stream]


def share_out(
    lengths: Sequence[int], slots: int, max_tokens: int, *, packing: bool
) -> tuple[list[list[int]], list[int]]:
    """Indices into `slots` batches of like size, the longest first; and those for which no batch has room.

    A batch takes so many tokens as its rows have when padded to the longest, or as they have together when packed.
    """
    batches: list[list[int]] = [[] for _ in range(slots)]
    left = []

    def tokens(batch: list[int]) -> int:
        sizes = [lengths[i] for i in batch]
        return sum(sizes) if packing else max(sizes, default=0) * len(sizes)

    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        roomy = [batch for batch in batches if tokens([*batch, index]) <= max_tokens]
        if roomy:
            min(roomy, key=tokens).append(index)
        else:
            left.append(index)
    return batches, left


class RoundFigures(NamedTuple):
    """Means over the texts of a round."""

    texts: int
    accuracy: float  # of those that could be graded; NaN where none could
    cut_off: float  # share that did not end
    repeated: float  # share that was cut off while it said the same again and again
    empty: float  # share that says nothing at all
    tokens: float
    student_log_q: float  # nats, of the student's own tokens: less its entropy, where it sampled at temperature 1
    teacher_log_p: float  # nats, of the student's tokens
    kl: float  # nats a token, log q - log p: KL(student, teacher) estimated from what was sampled, unbiased at 1
    teacher_entropy: float  # nats
    # Shares of the tokens of graded texts, 1 together: was the teacher's likeliest token written, and is its text
    # right? Agreement on failure is what a teacher cannot mend (https://arxiv.org/abs/2607.23731).
    agreed_right: float
    agreed_wrong: float
    parted_right: float
    parted_wrong: float


def figures(traces: Sequence[Trace]) -> RoundFigures:
    graded = [t.verdict == "correct" for t in traces if t.verdict]
    rows = np.concatenate([t.valid for t in traces])
    first = [t.logprobs[np.cumsum(t.counts) - t.counts] for t in traces]
    log_p, entropy = np.concatenate(first)[rows], np.concatenate([t.entropy for t in traces])[rows]
    log_q = np.concatenate([np.full(len(t.valid), np.nan) if t.log_q is None else t.log_q for t in traces])[rows]
    known = ~np.isnan(log_q)  # not of a text that is read otherwise than it was written
    cut = [t.finish == "length" for t in traces]
    return RoundFigures(
        texts=len(traces),
        accuracy=float(np.mean(graded)) if graded else float("nan"),
        cut_off=float(np.mean(cut)),
        repeated=float(np.mean([c and repeated(t.response_ids.tolist()) for c, t in zip(cut, traces, strict=True)])),
        empty=float(np.mean([t.finish == "stop" and len(t.response_ids) == 1 for t in traces])),
        tokens=float(np.mean([len(t.response_ids) for t in traces])),
        student_log_q=float(log_q[known].mean()) if known.any() else float("nan"),
        kl=float((log_q - log_p)[known].mean()) if known.any() else float("nan"),
        teacher_log_p=float(log_p.mean()) if len(log_p) else float("nan"),
        teacher_entropy=float(entropy.mean()) if len(entropy) else float("nan"),
        **by_outcome(traces),
    )


def by_outcome(traces: Sequence[Trace]) -> dict[str, float]:
    """{agreed_right, agreed_wrong, parted_right, parted_wrong}: shares of tokens; NaN where no text was graded."""
    counts = dict.fromkeys(("agreed_right", "agreed_wrong", "parted_right", "parted_wrong"), 0)
    for trace in traces:
        if not trace.verdict or not len(trace.counts):
            continue
        starts = np.cumsum(trace.counts) - trace.counts
        agreed = (trace.logprobs[starts] >= np.maximum.reduceat(trace.logprobs, starts))[trace.valid]
        outcome = "right" if trace.verdict == "correct" else "wrong"
        counts[f"agreed_{outcome}"] += int(agreed.sum())
        counts[f"parted_{outcome}"] += int((~agreed).sum())
    total = sum(counts.values())
    return {name: count / total if total else float("nan") for name, count in counts.items()}
