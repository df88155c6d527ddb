"""What needs no answers: perplexity, distance from the teacher, and whether confidence is earned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import exp
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ekd.data.batch_sampler import Batches
from ekd.data.collate import Collate
from ekd.eval.metrics import Row
from ekd.models.head import head_of, stats
from ekd.models.progress import tracked
from ekd.models.reader import HEAD_MB, agreement, divergence, read_batch
from ekd.models.rows import matched
from ekd.models.turn import first_token
from ekd.types import Batch, Trace

BINS = 15  # of the confidence, as in Guo et al. 2017 (arXiv 1706.04599)


class Bin(NamedTuple):
    low: float
    high: float
    tokens: int
    confidence: float  # mean probability of the model's first choice
    accuracy: float  # how often the first choice came next


class Digits(NamedTuple):
    """Of the tokens that are digits: where two tokenizers differ most."""

    tokens: int
    ce: float  # nats a token
    accuracy: float  # first choice = next token


class Reading(NamedTuple):
    tokens: int
    ce: float  # nats a token
    perplexity: float  # exp(ce)
    accuracy: float  # first choice = next token
    ece: float  # sum over bins of the bin's share times |accuracy - confidence|
    entropy: float  # nats
    kl: float | None  # nats a token, teacher to student, over the rows that have a teacher; None: there is none
    agreement: float | None  # first choices that are the teacher's
    bins: list[Bin]
    digits: Digits | None  # None: there are none, or nobody said which tokens are


@torch.inference_mode()
def measure(model: PreTrainedModel, batches: Iterable[Batch], digits: Tensor | None = None) -> Reading:
    """Over every response token of the batches, at temperature 1. digits: (V,) bool, tokens that are told apart."""
    sums = torch.zeros(7, dtype=torch.float64)  # tokens, ce, right, entropy, rows with a teacher, kl, agreement
    bins = torch.zeros(3, BINS, dtype=torch.float64)  # tokens, confidence, right
    numbers = torch.zeros(3, dtype=torch.float64)  # of digits: tokens, ce, right
    for batch in batches:
        hidden, rows = read_batch(model, batch)
        assert rows.student is not None
        best = stats(hidden, head_of(model), rows.student.argmax[:, None], budget_mb=HEAD_MB).log_q[:, 0].exp()
        first, right = best.double().cpu(), (rows.student.argmax == rows.target).double().cpu()
        known = matched(rows)
        if digits is not None:
            some = digits.to(rows.target.device)[rows.target].double()
            numbers += torch.stack([some.sum(), -some @ rows.student.log_q[:, 0].double(), some.cpu() @ right]).cpu()
        parts = [rows.valid.new_tensor(len(right), dtype=torch.long), -rows.student.log_q[:, 0], right]
        parts += [rows.student.entropy, rows.valid, divergence(known), agreement(known)]
        sums += torch.stack([part.double().sum().cpu() for part in parts])
        bins += torch.stack([_binned(first, value) for value in (torch.ones_like(first), first, right)])
    return _reading(sums.tolist(), bins, numbers.tolist())


def from_text(tokenizer: PreTrainedTokenizerBase, text: str, window: int) -> Iterator[Trace]:
    """Windows of plain text, without a teacher. Each begins with the tokenizer's first token (or its end token)."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    start = first_token(tokenizer)
    for at in range(0, len(ids), window - 1):
        yield _without_teacher(start, ids[at : at + window - 1], f"{at}")


def batched(traces: Sequence[Trace], vocab: int, max_tokens: int, *, draws: bool = False) -> Iterator[Batch]:
    """In batches of like length, with a progress bar. draws: the traces are counts of draws, as their store says."""
    order = sorted(range(len(traces)), key=lambda i: len(traces[i].prompt_ids) + len(traces[i].response_ids))
    ordered = [traces[i] for i in order]
    lengths = [len(t.prompt_ids) + len(t.response_ids) for t in ordered]
    collate = Collate(vocab, draws=draws)
    plan = list(Batches(lengths, max_tokens=max_tokens))
    for batch in tracked(plan, "measuring"):
        yield collate([ordered[i] for i in batch])


def perplexity_rows(reading: Reading) -> list[Row]:
    view = [
        ("tokens", f"{reading.tokens:,}"),
        ("perplexity", f"{reading.perplexity:.3f} ({reading.ce:.4f} nats a token)"),
        ("next token is its first choice", f"{100 * reading.accuracy:.1f}%"),
        ("calibration error (ECE)", f"{100 * reading.ece:.2f} points over {BINS} bins"),
        ("entropy", f"{reading.entropy:.4f} nats"),
    ]
    if reading.kl is not None and reading.agreement is not None:
        view.append(("KL to the teacher", f"{reading.kl:.4f} nats a token"))
        view.append(("first choice is the teacher's", f"{100 * reading.agreement:.1f}%"))
    if reading.digits is not None:
        view.append(("tokens that are digits", f"{reading.digits.tokens:,}"))
        view.append(("  their perplexity", f"{exp(min(reading.digits.ce, 700.0)):.3f}"))
        view.append(("  next token is its first choice", f"{100 * reading.digits.accuracy:.1f}%"))
    return view


def reading_json(reading: Reading) -> dict[str, Any]:
    digits = None if reading.digits is None else reading.digits._asdict()
    return {**reading._asdict(), "bins": [b._asdict() for b in reading.bins], "digits": digits}


def reliability(reading: Reading, size: int = 320, edge: int = 40) -> str:
    """The reliability plot as SVG: accuracy against confidence; on the diagonal, confidence is earned."""
    most = max(b.tokens for b in reading.bins)
    width = size / BINS

    def bar(b: Bin, i: int) -> str:
        height = size * b.accuracy
        told = f"confidence {b.confidence:.3f}, right {b.accuracy:.3f}, {b.tokens} tokens"
        shade = 0.25 + 0.75 * b.tokens / most
        place = (
            f'x="{edge + i * width:.1f}" y="{edge + size - height:.1f}" width="{width - 1:.1f}" height="{height:.1f}"'
        )
        return f'<rect {place} fill="#3b6ea5" fill-opacity="{shade:.2f}"><title>{told}</title></rect>'

    bars = "\n".join(bar(b, i) for i, b in enumerate(reading.bins) if b.tokens)
    far, whole = edge + size, size + 2 * edge
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole} {whole}" font-family="sans-serif" '
        f'font-size="12">\n'
        f'<rect width="{whole}" height="{whole}" fill="white"/>\n{bars}\n'
        f'<path d="M{edge} {far}H{far}M{edge} {far}V{edge}" stroke="black" fill="none"/>\n'
        f'<path d="M{edge} {far}L{far} {edge}" stroke="#888" stroke-dasharray="4"/>\n'
        f'<text x="{edge + size / 2}" y="{far + 28}" text-anchor="middle">confidence of the first choice</text>\n'
        f'<text x="14" y="{edge + size / 2}" text-anchor="middle" transform="rotate(-90 14 {edge + size / 2})">'
        f"how often it came next</text>\n"
        f'<text x="{edge}" y="{edge - 14}">ECE {100 * reading.ece:.2f} points, {reading.tokens:,} tokens '
        f"(darker: more of them)</text>\n</svg>\n"
    )


def _binned(confidence: Tensor, value: Tensor) -> Tensor:
    """(N,), (N,) -> (BINS,) sums."""
    place = (confidence * BINS).long().clamp(0, BINS - 1)
    return torch.zeros(BINS, dtype=torch.float64).index_add_(0, place, value)


def _reading(sums: list[float], bins: Tensor, numbers: list[float]) -> Reading:
    tokens, ce, right, entropy, known, far, agree = sums
    count, digits_ce, digits_right = numbers
    if not tokens:
        raise ValueError("there is no token to measure: the text, or the split, is empty")
    table = [
        Bin(i / BINS, (i + 1) / BINS, int(n), c / n if n else 0.0, r / n if n else 0.0)
        for i, (n, c, r) in enumerate(zip(*bins.tolist(), strict=True))
    ]
    return Reading(
        tokens=int(tokens),
        ce=ce / tokens,
        perplexity=exp(min(ce / tokens, 700.0)),
        accuracy=right / tokens,
        ece=sum(b.tokens / tokens * abs(b.accuracy - b.confidence) for b in table),
        entropy=entropy / tokens,
        kl=far / known if known else None,
        agreement=agree / known if known else None,
        bins=table,
        digits=Digits(int(count), digits_ce / count, digits_right / count) if count else None,
    )


def _without_teacher(start: int, ids: list[int], key: str) -> Trace:
    n = len(ids)
    return Trace(
        key=key,
        problem_id=key,
        sample=0,
        finish="length",
        prompt_ids=np.array([start], np.int32),
        response_ids=np.array(ids, np.int32),
        counts=np.ones(n, np.int32),
        ids=np.array(ids, np.int32),
        logprobs=np.zeros(n, np.float32),
        log_tail=np.full(n, -np.inf, np.float32),
        entropy=np.zeros(n, np.float32),
        exact=True,
        valid=np.zeros(n, bool),
        log_norm=np.zeros((n, 0), np.float32),
    )
