"""The words about a model: whoever takes them passes every one on."""

from __future__ import annotations

from dataclasses import fields

import pytest
from conftest import hf
from test_student import student

from ekd.data.policy import Sampling, StudentPolicy
from ekd.data.trace_filter import TopSamples
from ekd.eval.generators.hf import HF
from ekd.models.spec import ModelSpec
from ekd.signal.student_entropy import StudentEntropy

WORDS = {
    "model": "tiny:5", "layers": [1], "dtype": "bfloat16", "attention": "eager", "quantize": None, "device": "meta",
    "trust_remote_code": True,
}  # fmt: skip


def taker(name: str, words: dict) -> ModelSpec:
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=1, batch_size=1)
    homeless = {k: v for k, v in words.items() if k != "device"}
    if name == "student":
        return student(**homeless).spec
    if name == "teacher":
        return hf(**{k: v for k, v in words.items() if k != "layers"}).spec
    if name == "samples":
        return TopSamples(percent=20, by=StudentEntropy(), max_tokens=1, head_mb=1.0, **homeless).spec
    made = HF(checkpoint=None, **words) if name == "generator" else StudentPolicy(sampling=sampling, **words)
    return made.spec


@pytest.mark.parametrize("name", ["student", "teacher", "samples", "generator", "policy"])
def test_every_taker_passes_every_word_on(name, monkeypatch):
    unsaid = {"student": {"device": "cpu"}, "samples": {"device": "auto"}, "teacher": {"layers": "all"}}
    spec = taker(name, WORDS)
    assert spec == ModelSpec(**(WORDS | unsaid.get(name, {})))
    asked = {}
    monkeypatch.setattr("ekd.models.spec.load_model", lambda model, **words: asked.update(words, model=model))
    monkeypatch.setattr("ekd.models.spec.pick_device", lambda device: device)
    spec.load()
    assert asked == {field.name: getattr(spec, field.name) for field in fields(spec)}


def test_an_origin_is_what_decides_the_numbers():
    spec = ModelSpec(**WORDS)
    assert spec.origin() == {
        **spec.identity(), "layers": [1], "dtype": "bfloat16", "quantize": None,
    }  # fmt: skip
    assert spec.identity() == {"vocab": 272, "revision": "tiny:5"}
