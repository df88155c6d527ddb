"""What a trained student thinks at every token of some traces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from ekd.data.batch_sampler import Batches
from ekd.data.collate import Collate
from ekd.models.progress import tracked
from ekd.models.reader import divergence, read_batch
from ekd.types import Batch, Trace


class StudentView(NamedTuple):
    """Of one trace, row by row as in the trace; entries as in `Trace.ids`."""

    entropy: np.ndarray  # (n,) nats, whole vocabulary
    kl: np.ndarray  # (n,) nats, teacher to student over the known ids and the tail; nan for an unmatched row
    log_q: np.ndarray  # (sum counts,) of the ids that the teacher's rows name
    log_rest: np.ndarray  # (n,) of all other ids
    argmax: np.ndarray  # (n,) its first choice


@torch.inference_mode()
def views(
    model: PreTrainedModel, traces: Sequence[Trace], vocab: int, draws: int, max_tokens: int
) -> list[StudentView]:
    """In the order of the traces; read in batches of like length. draws: of the store, 0 where rows are logprobs.

    Raises ValueError for an id outside the student's head: its tokenizer is another.
    """
    order = sorted(range(len(traces)), key=lambda i: len(traces[i].prompt_ids) + len(traces[i].response_ids))
    lengths = [len(traces[i].prompt_ids) + len(traces[i].response_ids) for i in order]
    collate, found = Collate(vocab, draws=draws > 0), dict[int, StudentView]()
    longest = max([max_tokens, *lengths])  # one long trace is a batch of its own
    for batch in tracked(list(Batches(lengths, max_tokens=longest)), "the student reads"):
        some = [order[place] for place in batch]
        made = collate([traces[i] for i in some])
        found |= zip(some, split_batch(made, seen(model, made), [traces[i] for i in some]), strict=True)
    return [found[i] for i in range(len(traces))]


def seen(model: PreTrainedModel, batch: Batch) -> tuple[np.ndarray, ...]:
    """entropy (R,), kl (R,), log_q (R, K+1), argmax (R,) of a batch's rows."""
    _, rows = read_batch(model, batch)
    assert rows.student is not None
    columns = (rows.student.entropy, divergence(rows), rows.student.log_q, rows.student.argmax)
    return tuple(column.cpu().numpy() for column in columns)


def split_batch(batch: Batch, columns: tuple[np.ndarray, ...], traces: Sequence[Trace]) -> list[StudentView]:
    """A batch's rows, trace by trace."""
    out, at = [], 0
    for trace in traces:
        here = slice(at, at + len(trace.response_ids))
        entropy, far, log_q, argmax = (column[here] for column in columns)
        named = np.arange(log_q.shape[1] - 1) < trace.counts[:, None]
        out.append(StudentView(entropy, far, log_q[:, :-1][named], log_q[:, -1], argmax))
        at = here.stop
    return out
