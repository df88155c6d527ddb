"""How a model looks at a batch: the decoder alone, the rows that predict a response token, what its head thinks there.

Training, validation, perplexity, the sample axis and the viewer all look through this, so that none of them can forget
what another knows: that a row may be counts of draws, that a token may have no teacher, that an id must have a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor
from transformers import PreTrainedModel

from ekd.models.head import Head, head_of, stats
from ekd.models.prefix import Chain, can_share, read_begun, read_pass
from ekd.models.rows import kl, kl_of_draws, matched, where
from ekd.types import Batch, Rows

HEAD_MB = 64.0  # of logits at a time, where nobody says otherwise


def response_hidden(decode: Callable[..., Any], batch: Batch, *, share: bool = True) -> Tensor:
    """(R, H): no logits are built, and only the rows that predict a response token leave the decoder.

    share: what several rows begin with (worked examples, a prompt) is read once, and its gradient is the sum over them.
    """
    return hidden_where(decode, batch.input_ids, batch.position_ids, batch.mask, batch.shared if share else ())


def hidden_where(
    decode: Callable[..., Any], ids: Tensor, positions: Tensor, mask: Tensor, shared: Sequence[Chain]
) -> Tensor:
    """(R, H), what a decoder thinks where mask (B, T) is True, row by row.

    Without a mask of attention, positions that start anew are borders that it does not cross (a packed row); padding on
    the right comes after every real token, and a causal model never looks there.
    """
    if not shared:
        states: Tensor = decode(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
        return states.flatten(0, 1).index_select(0, where(mask.flatten()))
    number = (mask.flatten().cumsum(0) - 1).view_as(ids)  # which of the R a place is
    found, places = [], []
    for *begun, own in shared:
        cache, begin = read_begun(decode, ids, positions, begun)
        states = read_pass(decode, ids, positions, own, cache, begin, keep=False).last_hidden_state
        wanted = where(mask[own[1], begin : own[0]].flatten())
        found.append(states.flatten(0, 1).index_select(0, wanted))
        places.append(number[own[1], begin : own[0]].flatten()[wanted])
    return found[0] if len(found) == 1 else torch.cat(found).index_select(0, torch.cat(places).argsort())


def with_student(hidden: Tensor, head: Head, rows: Rows, *, budget_mb: float, top: int = 0) -> Rows:
    """All rows, with what the model thinks at each (temperature 1, no gradient)."""
    return rows._replace(student=stats(hidden, head, rows.teacher_ids, budget_mb=budget_mb, top=top))


def matched_with_student(hidden: Tensor, head: Head, rows: Rows, *, budget_mb: float, top: int = 0) -> Rows:
    """Only the rows that have a teacher distribution; the head reads no others."""
    known = matched(rows)
    return with_student(hidden if known is rows else hidden[rows.valid], head, known, budget_mb=budget_mb, top=top)


def read_batch(
    model: PreTrainedModel, batch: Batch, *, budget_mb: float = HEAD_MB, top: int = 0
) -> tuple[Tensor, Rows]:
    """-> hidden (R, H) and the rows with the student filled, on the model's device. Raises ValueError for an id that
    the model's head has no row for: its tokenizer is another.
    """
    batch = move_data_to_device(batch, model.device)
    head, most = head_of(model), int(batch.rows.teacher_ids.max()) if len(batch.rows.target) else 0
    if most >= len(head.weight):
        raise ValueError(
            f"the traces name token {most} and the model's head has {len(head.weight)} rows: its tokenizer is another; "
            "give a model that was trained on traces of this one (run=RUN)"
        )
    with torch.no_grad():
        hidden = response_hidden(model.get_decoder().__call__, batch, share=can_share(model))
        return hidden, with_student(hidden, head, batch.rows, budget_mb=budget_mb, top=top)


def divergence(rows: Rows) -> Tensor:
    """(R,) nats, KL(teacher, student) over the known ids and the tail; of counts of draws the estimate that is right on
    average. nan where a row has no teacher.
    """
    assert rows.student is not None
    far = kl_of_draws(rows, rows.student.log_q) if rows.draws else kl(rows.teacher_logprobs, rows.student.log_q)
    return torch.where(rows.valid, far, torch.nan)


def agreement(rows: Rows) -> Tensor:
    """(R,) bool: the student's first choice is the teacher's."""
    assert rows.student is not None
    best = rows.teacher_logprobs[:, :-1].argmax(1, keepdim=True)
    return rows.student.argmax == rows.teacher_ids.gather(1, best)[:, 0]
