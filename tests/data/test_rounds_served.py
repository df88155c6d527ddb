"""Rounds whose teacher is a server: real llama.cpp reads what the student writes, in a process of its own."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from conftest import collector
from test_data import data
from test_openai import openai
from test_rounds import by_round, fit, log, rounds
from wire_servers import llama_server

from ekd.models.load import load_model

pytestmark = pytest.mark.real


@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="needs the wheel xllamacpp")
def test_a_server_reads_what_the_student_writes(tmp_path):
    with llama_server() as url:
        teacher = openai(url, mode="score", top=20, max_unmatched=1.0)  # a third of a model may write half a character
        asked = {"collector": collector(tokenizer="smollm2", teacher=teacher), "train_problems": 4, "val_problems": 1}
        served = data(**asked, source=rounds(problems_per_round=2, max_new_tokens=10))
        fit(tmp_path, None, steps=2, made=served, model="smollm2", layers=list(range(0, 30, 3)))
    assert [line["round"] for line in log(tmp_path)] == [0, 1]
    written, dense = by_round(tmp_path), load_model("smollm2").eval()
    assert {len(some) for some in written.values()} == {2}
    gaps = []
    for trace in (t for some in written.values() for t in some):
        assert not trace.exact and trace.counts[trace.valid].min() >= 20
        ids = torch.tensor([[*trace.prompt_ids.tolist(), *trace.response_ids.tolist()]])
        with torch.no_grad():
            p = dense(ids).logits[0, len(trace.prompt_ids) - 1 : -1].log_softmax(-1)
        want = p.gather(-1, torch.tensor(trace.response_ids.astype(np.int64))[:, None])[:, 0].numpy()
        gaps += list(np.abs(trace.logprobs[np.cumsum(trace.counts) - trace.counts] - want)[trace.valid])
    assert len(gaps) > 10 and np.mean(gaps) < 0.5  # llama.cpp rounds activations to 8 bits; of nats between 0 and 15
