"""A store as a table with a line for each response token: for a notebook, a plot, a question of one's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from ekd.models.token_kinds import kind_of, token_texts
from ekd.store.store import Store

TOKEN_COLUMNS = pa.schema(
    [
        ("key", pa.string()),  # of the trace, in the store
        ("problem_id", pa.string()),
        ("sample", pa.int32()),
        ("position", pa.int32()),  # in the response, from 0
        ("id", pa.int32()),
        ("token", pa.string()),  # its text; null without a tokenizer
        ("kind", pa.string()),  # digits, operators, words, punctuation, other; null without a tokenizer
        ("logprob", pa.float32()),  # ln p of the token by the teacher, at temperature 1
        ("entropy", pa.float32()),  # nats, of the teacher's distribution before it
        ("tail", pa.float32()),  # mass that the row does not name
        ("matched", pa.bool_()),  # false: the teacher has no distribution here
        ("verdict", pa.string()),  # of the whole text: correct, wrong, unparseable; "" where nobody graded it
    ]
)


def token_table(
    store: Store, tokenizer: PreTrainedTokenizerBase | None = None, keys: Sequence[str] | None = None
) -> pa.Table:
    """keys: of which traces, in this order; None: all, sorted. `.to_pandas()` makes a data frame of it.

    tokenizer: whose ids the store holds (the student's), for texts and kinds.
    """
    texts = None if tokenizer is None else np.array(token_texts(tokenizer, store.layout.vocab), object)
    kinds = None if texts is None else np.array([kind_of(text) for text in texts], object)
    parts = []
    for key in sorted(store.keys()) if keys is None else keys:
        trace = store[key]
        n, ids = len(trace.response_ids), trace.response_ids
        first = np.cumsum(trace.counts) - trace.counts
        columns = {
            "key": [key] * n,
            "problem_id": [trace.problem_id] * n,
            "sample": np.full(n, trace.sample),
            "position": np.arange(n),
            "id": ids,
            "token": [None] * n if texts is None else texts[ids],
            "kind": [None] * n if kinds is None else kinds[ids],
            "logprob": trace.logprobs[first],
            "entropy": trace.entropy,
            "tail": np.exp(trace.log_tail),
            "matched": trace.valid,
            "verdict": [trace.verdict] * n,
        }
        parts.append(
            pa.table({name: pa.array(columns[name], TOKEN_COLUMNS.field(name).type) for name in TOKEN_COLUMNS.names})
        )
    return pa.concat_tables(parts) if parts else TOKEN_COLUMNS.empty_table()
