"""What must be true of every trace that is stored, and of every trace that is read back."""

from __future__ import annotations

import re

import numpy as np

from ekd.types import Trace

SLACK = 1e-2  # how far named mass + tail may be from 1: servers round, models in bf16 do too


def check(trace: Trace, vocab: int, temperatures: int, read: int = 0) -> None:
    """read: size of the vocabulary of the teacher's prompts, where that is another.

    Raises ValueError, one sentence that names the trace, for the first thing that is wrong.
    """
    why = bad_names(trace) or lengths(trace, temperatures) or ids(trace, vocab, read or vocab) or mass(trace)
    if why:
        raise ValueError(f"trace {trace.key} (problem {trace.problem_id}) is not sound: {why}")


def bad_names(trace: Trace) -> str:
    """Of what a shard keeps beside the rows: what does not fit there would take the whole shard with it."""
    for name, text in (("key", trace.key), ("problem id", trace.problem_id)):
        if not isinstance(text, str) or not text or re.search("[\ud800-\udfff]", text):
            return f"its {name} is {text!r}; it must be a text that UTF-8 can write"
    if trace.finish not in ("stop", "length"):
        return f"it ended by {trace.finish!r}; an answer ends by 'stop' or by 'length'"
    if not 0 <= trace.sample < 1 << 31:
        return f"its sample is {trace.sample}; samples are counted from 0"
    if trace.verdict not in ("", "correct", "wrong", "unparseable"):
        return f"its verdict is {trace.verdict!r}; a grader says correct, wrong or unparseable"
    if not isinstance(trace.policy, str) or re.search("[\ud800-\udfff]", trace.policy):
        return f"its policy is {trace.policy!r}; it must be a text that UTF-8 can write"
    return ""


def lengths(trace: Trace, temperatures: int) -> str:
    n, total = len(trace.response_ids), int(trace.counts.sum())
    rows = {len(x) for x in (trace.counts, trace.log_tail, trace.entropy, trace.valid, trace.log_norm)}
    if rows != {n}:
        return f"it has {n} response tokens but {sorted(rows)} rows; every response token needs exactly one row"
    if n and int(trace.counts.min()) < 1:
        return f"row {int(trace.counts.argmin())} has no entry; entry 0 must be the token that came next"
    for name, some in (("contrast", trace.contrast), ("log_q", trace.log_q), ("ends", trace.ends)):
        if some is not None and len(some) != n:
            return f"it has {n} response tokens and {name} of {len(some)}"
    if {len(trace.ids), len(trace.logprobs)} != {total}:
        return f"its rows count {total} entries, but there are {len(trace.ids)} ids, {len(trace.logprobs)} logprobs"
    if trace.log_norm.shape != (n, temperatures):
        return f"log_norm has shape {trace.log_norm.shape}; the store's temperatures ask for {(n, temperatures)}"
    return ""


def ids(trace: Trace, vocab: int, read_vocab: int) -> str:
    read = trace.prompt_ids[:0] if trace.teacher_prompt_ids is None else trace.teacher_prompt_ids
    own = (("prompt", trace.prompt_ids), ("response", trace.response_ids), ("teacher", trace.ids))
    for name, some, size in (*((*one, vocab) for one in own), ("teacher's prompt", read, read_vocab)):
        bad = some[(some < 0) | (some >= size)]
        if len(bad):
            return f"{name} id {bad[0]} is outside the vocabulary of {size}; origin['vocab'] must be the teacher's"
    first = np.cumsum(trace.counts) - trace.counts
    wrong = np.flatnonzero(trace.ids[first] != trace.response_ids) if len(first) else first
    if len(wrong):
        row = wrong[0]
        begins, came = trace.ids[first[row]], trace.response_ids[row]
        return f"row {row} begins with id {begins}, but the token that came next is {came}"
    rows = np.repeat(np.arange(len(first)), trace.counts)
    if len(np.unique(rows * np.int64(vocab) + trace.ids)) != len(trace.ids):
        return "a row names an id twice"
    return ""


def mass(trace: Trace) -> str:
    others = (("contrast", trace.contrast), ("log_q", trace.log_q))
    known = [(name, np.nan_to_num(some)) for name, some in others if some is not None]  # NaN: not known
    for name, some in (("logprobs", trace.logprobs), ("log_tail", trace.log_tail), *known):
        if len(some) and not float(some.max()) <= SLACK:  # also true of NaN
            return f"{name} hold {some.max()}; the logarithm of a probability is at most 0"
    if not np.isfinite(trace.entropy).all() or (len(trace.entropy) and float(trace.entropy.min()) < -SLACK):
        return "an entropy is negative or not a finite number"
    if not np.isfinite(trace.log_norm).all():
        return "a log_norm is not a finite number"
    if not len(trace.counts):
        return ""
    first = np.cumsum(trace.counts) - trace.counts
    total = np.add.reduceat(np.exp(trace.logprobs.astype(np.float64)), first) + np.exp(
        trace.log_tail.astype(np.float64)
    )
    row = int(np.abs(total - 1).argmax())
    if abs(total[row] - 1) > SLACK:
        return f"row {row} names a mass of {total[row]:.4f} with its tail; it must be 1"
    highest = np.maximum.reduceat(trace.logprobs, first)
    if not np.isfinite(highest).all():
        return f"row {int(np.isfinite(highest).argmin())} names only ids of probability 0"
    begins = np.zeros(len(trace.ids) + 1, bool)
    begins[first] = begins[np.minimum(first + 1, len(trace.ids))] = True
    climbs = np.flatnonzero((trace.logprobs[1:] > trace.logprobs[:-1]) & ~begins[1:-1])
    if len(climbs):
        row = int(np.searchsorted(first, climbs[0], "right")) - 1
        return f"the entries of row {row} after entry 0 do not follow by falling probability"
    return ""
