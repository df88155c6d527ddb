"""Verdict, policy, the teacher's own prompt, a contrast, where spans end: no byte where there are none."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import traces

from ekd.store.codec import Layout
from ekd.store.shard import SCHEMA, WIDE, WIDER, WIDEST, Shard, assemble_shard, part
from ekd.store.store import Store
from ekd.store.transfer import export

ORIGIN = {"vocab": 272, "temperatures": []}
LAYOUT = Layout(272, 0, 0, 16)


def told(trace, n: int):
    """The same trace with everything that may be known of one."""
    contrast = -np.arange(len(trace.response_ids), dtype=np.float32) / 8
    contrast[0] = np.nan
    read = np.concatenate([trace.prompt_ids[:3], np.arange(n, dtype=np.int32), trace.prompt_ids])
    known = {"teacher_prompt_ids": read, "contrast": contrast, "log_q": contrast / 2 if n else None}
    known["ends"] = np.arange(len(trace.response_ids)) % 3 == 1 if n > 1 else None
    return trace._replace(verdict="correct", policy=f"student@{n}", **known)


def test_what_is_known_of_a_trace_comes_back_and_what_is_not_stays_unknown(tmp_path):
    plain, *others = traces(4)
    known = [told(trace, n) for n, trace in enumerate(others)]
    store = Store.create(tmp_path / "store", ORIGIN)
    store.append([plain, *known])
    for trace in known:
        back = Store(store.path)[trace.key]
        assert (back.verdict, back.policy) == (trace.verdict, trace.policy)
        np.testing.assert_array_equal(back.teacher_prompt_ids, trace.teacher_prompt_ids)
        np.testing.assert_allclose(back.contrast, trace.contrast, atol=1 / 2048)
        assert (back.log_q is None) == (trace.log_q is None)
        if trace.log_q is not None:
            np.testing.assert_allclose(back.log_q, trace.log_q, atol=1 / 2048)
        np.testing.assert_array_equal(back.prompt_ids, trace.prompt_ids)
        np.testing.assert_array_equal(back.ends, trace.ends)
    back = Store(store.path)[plain.key]
    assert (back.verdict, back.policy, back.teacher_prompt_ids, back.contrast) == ("", "", None, None)
    assert Store(store.path).verdicts() == {plain.key: "", **{t.key: "correct" for t in known}}


def test_a_shard_without_any_of_it_is_the_one_that_was_always_written(tmp_path):
    some, file = [t._replace(policy="") for t in traces(3)], tmp_path / "a.arrows"
    file.write_bytes(assemble_shard([part(t, LAYOUT) for t in some], ORIGIN))
    assert Shard(file).batch.schema.equals(SCHEMA) and Shard(file).verdicts() == [""] * 3
    file.write_bytes(assemble_shard([part(told(t, 0), LAYOUT) for t in some], ORIGIN))
    assert Shard(file).batch.schema.equals(WIDE)
    file.write_bytes(assemble_shard([part(told(t, 1), LAYOUT) for t in some], ORIGIN))
    assert Shard(file).batch.schema.equals(WIDER)
    file.write_bytes(assemble_shard([part(told(t, n), LAYOUT) for n, t in enumerate(some)], ORIGIN))
    assert Shard(file).batch.schema.equals(WIDEST)


@pytest.mark.parametrize("name", ["verdict", "policy", "teacher_prompt_ids", "contrast", "log_q", "ends"])
def test_a_changed_column_is_damage(tmp_path, name):
    """The checksum covers it: here one trace's columns with another's checksum."""
    trace = told(traces(1)[0], 2)
    other = {"verdict": "wrong", "policy": "student@3", "teacher_prompt_ids": trace.prompt_ids}
    other["contrast"] = other["log_q"] = trace.contrast - 1
    other["ends"] = ~trace.ends
    file, swapped = tmp_path / "a.arrows", tmp_path / "b.arrows"
    file.write_bytes(assemble_shard([part(trace, LAYOUT)], ORIGIN))
    swapped.write_bytes(assemble_shard([part(trace._replace(**{name: other[name]}), LAYOUT)], ORIGIN))
    one, two = Shard(file), Shard(swapped)
    at = SCHEMA.names.index("check")
    two.batch = two.batch.set_column(at, two.batch.schema.field(at), one.batch.column(at))
    with pytest.raises(ValueError, match="its checksum does not match"):
        two.trace(0, LAYOUT)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"verdict": "fine"}, "its verdict is 'fine'"),
        ({"contrast": np.zeros(1, np.float32)}, "and contrast of 1"),
        ({"log_q": np.zeros(1, np.float32)}, "and log_q of 1"),
        ({"ends": np.zeros(1, bool)}, "and ends of 1"),
        ({"contrast": "above"}, "contrast hold 1.0"),
        ({"teacher_prompt_ids": np.array([9999], np.int32)}, "teacher's prompt id 9999 is outside"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, change, why):
    trace = traces(1)[0]
    if change.get("contrast") is not None and isinstance(change["contrast"], str):
        change = {"contrast": np.ones(len(trace.response_ids), np.float32)}
    store = Store.create(tmp_path / "store", ORIGIN)
    with pytest.raises(ValueError, match=why):
        store.append([trace._replace(**change)])


def test_exported_columns_hold_them(tmp_path):
    import pyarrow.parquet as pq

    trace = told(traces(1)[0], 2)
    store = Store.create(tmp_path / "store", ORIGIN)
    store.append([trace])
    export(store, tmp_path / "out.parquet")
    (row,) = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert row["ends"] == trace.ends.tolist()
    assert row["verdict"] == "correct" and row["teacher_prompt_ids"] == trace.teacher_prompt_ids.tolist()


def test_a_translated_store_of_an_earlier_ekd_says_nowhere_and_another_everywhere(tmp_path):
    trace = traces(1)[0]
    for name, more, found in (("own", {}, None), ("translated", {"align": {"by": "bytes"}}, False)):
        store = Store.create(tmp_path / name, ORIGIN | more)
        store.append([trace])
        back = Store(store.path)[trace.key].ends
        assert back is None if found is None else len(back) == len(trace.valid) and not back.any()
