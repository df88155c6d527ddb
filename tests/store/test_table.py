"""A store as a table of tokens."""

from __future__ import annotations

import numpy as np
from conftest import collector

from ekd.store.table import TOKEN_COLUMNS, token_table


def test_a_line_for_each_token_says_what_its_trace_says(tokenizer):
    made = collector()
    collected = made.collect("train", 4)
    store = made.open()
    table = token_table(store, tokenizer, collected.keys[::-1])
    assert table.schema == TOKEN_COLUMNS
    at = 0
    for key in collected.keys[::-1]:
        trace, n = store[key], len(store[key].response_ids)
        part = table.slice(at, n)
        assert set(part["key"].to_pylist()) == {key} and part["position"].to_pylist() == list(range(n))
        np.testing.assert_array_equal(part["id"].to_numpy(), trace.response_ids)
        np.testing.assert_array_equal(part["entropy"].to_numpy(), trace.entropy)
        rows = np.split(trace.logprobs, np.cumsum(trace.counts)[:-1])
        np.testing.assert_array_equal(part["logprob"].to_numpy(), [row[0] for row in rows])
        mass = [np.exp(row.astype(np.float64)).sum() for row in rows]
        np.testing.assert_allclose(part["tail"].to_numpy() + mass, 1, atol=2e-3)
        assert part["token"].to_pylist() == [tokenizer.decode([i]) for i in trace.response_ids]
        at += n
    assert at == len(table)


def test_without_a_tokenizer_there_are_no_texts_and_without_traces_no_lines():
    made = collector()
    made.collect("train", 1)
    assert set(token_table(made.open())["token"].to_pylist()) == {None}
    assert len(token_table(made.open(), keys=[])) == 0
