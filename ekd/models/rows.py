"""What is done with the rows of a batch before and after they are priced; pure functions."""

from __future__ import annotations

import torch
from torch import Tensor

from ekd.models.logits import EMPTY
from ekd.models.tail import floored
from ekd.types import Loss, NeedsTop, PricesSpans, Rows, Signal, Stats


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(R, K+1), (R, K+1) -> (R,): sum p (ln p - ln q), nats."""
    log_p = log_p.clamp_min(EMPTY)
    return (log_p.exp() * (log_p - log_q.clamp_min(EMPTY))).sum(1)


def kl_of_draws(rows: Rows, log_q: Tensor) -> Tensor:
    """(R,): -sum (count / draws) ln q - H(p): on average KL(p, q) over all V; from the counts it is more."""
    return -(rows.teacher_logprobs.exp() * log_q.clamp_min(EMPTY)).sum(1) - rows.teacher_entropy


def where(mask: Tensor) -> Tensor:
    """(N,) bool -> the indices that are True. Selecting by these is several times faster backward than by the mask."""
    return mask.nonzero()[:, 0]


def rows_where(rows: Rows, mask: Tensor) -> Rows:
    """The rows at which mask (R,) is True, with what the student thinks there."""
    columns = {name: value[mask] for name, value in rows._asdict().items() if isinstance(value, Tensor)}
    seen = None if rows.student is None else Stats(*(value[mask] for value in rows.student))
    return Rows(**(rows._asdict() | columns | {"student": seen}))


def top_of(*signals: Signal) -> int:
    """How many of the student's most likely ids these signals read between them."""
    return max((one.needs_top for one in signals if isinstance(one, NeedsTop)), default=0)


def matched(rows: Rows) -> Rows:
    """The rows that have a teacher distribution."""
    return rows if bool(rows.valid.all()) else rows_where(rows, rows.valid)


def spans_to_price(rows: Rows, loss: Loss, keep: Tensor) -> Tensor | None:
    """(N,) of the kept rows, for a loss that prices spans; None for any other. Raises ValueError."""
    if not isinstance(loss, PricesSpans):
        return None
    if rows.span is None:
        raise ValueError(
            f"loss={loss} prices spans, and these translated traces do not say where they end, as those of an earlier "
            "ekd: trace them into a new store (data.collector.store=FOLDER), or take loss=forward_kl"
        )
    return rows.span[keep]


def at_temperature(rows: Rows, temperature: float) -> Tensor:
    """(R, K+1) ln p at a temperature: p_j^(1/T) / sum p^(1/T) for the known ids, the rest is the tail.

    Stored logprobs are rounded, so what a sure row names may sum to 1 or more: its tail is the least there is, and the
    named ids share what it leaves, so that every row sums to 1.
    """
    if temperature == 1:
        return rows.teacher_logprobs
    known = rows.teacher_logprobs[:, :-1].double() / temperature - rows.log_norm[:, None].double()
    mass = known.logsumexp(1)
    tail = torch.log1p(-mass.exp().clamp_max(1.0))
    tail = floored(tail, (rows.teacher_ids >= 0).sum(1), rows.vocab)
    known = known + (torch.log1p(-tail.exp()) - mass)[:, None]
    return torch.cat([known, tail[:, None]], 1).float()
