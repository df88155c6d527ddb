"""How a model looks at a batch: the decoder alone, the rows that predict a response token, what its head thinks there.

Training, validation, perplexity, the sample axis and the viewer all look through this, so that none of them can forget
what another knows: that a row may be counts of draws, that a token may have no teacher, that an id must have a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor
from transformers import PreTrainedModel

from ekd.models.head import Head, head_of, stats
from ekd.models.rows import kl, kl_of_draws, matched, where
from ekd.types import Batch, Rows

WORTH = 0.25  # of a batch's places: below it a second pass of the decoder saves next to nothing
HEAD_MB = 64.0  # of logits at a time, where nobody says otherwise


def response_hidden(decode: Callable[..., Any], batch: Batch, *, share: bool = True) -> Tensor:
    """(R, H): no logits are built, and only the rows that predict a response token leave the decoder.

    Without a mask, positions that start anew are borders that attention does not cross (a packed row); padding on the
    right comes after every real token, and a causal model never looks there. share: a beginning that all rows have in
    common (worked examples) is read once, and its gradient is the sum over the rows.
    """
    begin = batch.shared if share and worth_sharing(batch) else 0
    cache = None
    if begin:
        cache = decode(
            input_ids=batch.input_ids[:1, :begin], position_ids=batch.position_ids[:1, :begin], use_cache=True
        ).past_key_values
        cache.batch_repeat_interleave(len(batch.input_ids))
    out = decode(
        input_ids=batch.input_ids[:, begin:],
        position_ids=batch.position_ids[:, begin:],
        past_key_values=cache,
        use_cache=cache is not None,
    )
    states: Tensor = out.last_hidden_state
    return states.flatten(0, 1).index_select(0, where(batch.mask[:, begin:].flatten()))


def worth_sharing(batch: Batch) -> bool:
    """Whether reading the common beginning once leaves out at least so many of the batch's places."""
    rows, columns = batch.input_ids.shape
    return (rows - 1) * batch.shared >= WORTH * rows * columns


def can_share(model: PreTrainedModel) -> bool:
    """Not with dropout, which draws for every row, nor with gradient checkpointing, which keeps no cache, nor for a
    decoder that remembers in another way than by keys and values.
    """
    config = model.config.get_text_config()
    drops = any(isinstance(part, torch.nn.Dropout) and part.p > 0 for part in model.modules())
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    plain = kinds <= {"full_attention", "sliding_attention"} and not getattr(config, "attention_dropout", 0)
    return plain and not drops and not any(getattr(part, "gradient_checkpointing", False) for part in model.modules())


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
