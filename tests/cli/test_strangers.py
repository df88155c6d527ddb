"""A teacher of another family, through the real command line."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
from strangers import stranger
from test_train import TINY, ekd, figures

from ekd.models.load import load_tokenizer
from ekd.store.store import Store


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("strangers")
    stranger(folder / "other")
    return folder


def test_a_student_learns_from_a_teacher_of_another_family_in_one_command(place):
    other, run = place / "other", place / "run"
    words = [f"teacher.model={other}", "teacher.mode=score", f"hydra.run.dir={run}", "trainer.max_steps=60"]
    done = ekd("train", *TINY, *words, cwd=place)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "has another tokenizer (401 tokens) than tiny (258)" in said and "% exact" in said and "% unmatched" in said
    result = figures(run)
    assert result["after"]["val/kl"] < 0.95 * result["before"]["val/kl"]
    (store,) = (Store(path) for path in (place / "home" / "traces").iterdir())
    assert store.origin["align"]["tokenizer"] == str(other)
    assert store.origin["align"]["by"] == "bytes" and store.layout.vocab == len(load_tokenizer("tiny"))
    theirs, ours = load_tokenizer(str(other)), load_tokenizer("tiny")
    trace = store[min(store.keys())]
    assert theirs.decode(trace.teacher_prompt_ids).startswith("<system>")
    assert ours.decode(trace.prompt_ids).startswith("<|im_start|>")
    assert trace.finish == "stop" and trace.response_ids[-1] == ours.eos_token_id
    assert trace.valid.mean() > 0.6  # the teacher's weights are random
    answers = [json.loads(line) for file in (place / "home").rglob("*.jsonl") for line in file.read_text().splitlines()]
    assert {a["prompt"][:8] for a in answers if "prompt" in a} == {"<system>", "<|im_sta"}  # each in its own words


def test_texts_of_the_student_are_read_by_a_teacher_of_another_family(place):
    run = place / "rounds"
    words = [f"teacher.model={place / 'other'}", "trainer.max_steps=4", "benchmark.problems=0", f"hydra.run.dir={run}"]
    done = ekd("train", *TINY, "source=rounds", "source.sampling.max_new_tokens=16", *words, cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    store = Store(run / "rounds")
    traces = [store[key] for key in sorted(store.keys())]
    assert {trace.policy for trace in traces} == {f"student@{n}" for n in range(4)}
    assert np.mean([trace.valid.mean() for trace in traces]) > 0.5


def test_inspect_and_the_viewer_say_whose_tokens_the_teacher_spoke(place):
    store = min((place / "home" / "traces").iterdir())
    other = str(place / "other")
    done = ekd(
        "store", "inspect", str(store), "--tokenizer", "tiny", "--teacher-tokenizer", other, cwd=place, COLUMNS="200"
    )
    assert done.returncode == 0, done.stderr
    assert "401 tokens: rows translated by bytes" in done.stdout
    assert re.search(r"student \(\d+ tokens\): \w\|\w\|", done.stdout) and re.search(
        r"teacher \(\d+ tokens\): ", done.stdout
    )
    done = ekd("report", f"traces={store}", cwd=place)
    assert done.returncode == 2 and "does not say which tokenizer its ids are of" in done.stderr  # not the teacher's
    done = ekd("report", f"traces={store}", "tokenizer=tiny", cwd=place)
    assert done.returncode == 0, done.stderr
    page = (store / "report" / "traces.html").read_text()
    head = re.search(r'id="head">([^<]*)<', page)[1]
    assert "rows translated by bytes" in json.loads(gzip.decompress(base64.b64decode(head)))["about"]["align"]
