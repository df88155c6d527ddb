"""Chunks of rows."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from ekd.models.segments import chunks


@given(st.lists(st.integers(1, 6), max_size=12), st.integers(1, 9))
def test_chunks_are_all_rows_in_order_and_cut_no_span(sizes: list[int], most: int) -> None:
    span = torch.repeat_interleave(torch.arange(len(sizes)) * 2, torch.tensor(sizes, dtype=torch.long))
    count = len(span)
    for given_ in (None, span):
        parts = chunks(count, most, given_)
        assert [i for part in parts for i in range(part.start, part.stop)] == list(range(count))
        longest = 0 if given_ is None else max(sizes, default=0) - 1
        assert all(part.stop - part.start <= most + longest for part in parts)
    assert all(not set(span[a].tolist()) & set(span[b].tolist()) for a in parts for b in parts if a != b)
    assert all(part.stop > part.start for part in parts) or count == 0
