"""Servers whose model is of another family than the student."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from conftest import collector, hf
from wire_servers import build, generations, llama_server, serve

from ekd.models.load import load_tokenizer
from ekd.models.prompt import Prompt
from ekd.store.invariants import check
from ekd.store.tokenizer import vocabulary
from ekd.types import Trace

WHOLE = [w["response"] for w in generations()]
TINY = load_tokenizer("tiny")


class Speaker:
    """Ollama with one model; its answers to messages are recorded ones, in turn."""

    def __init__(self, tokens: list[str] | None, probe: int) -> None:
        self.tokens, self.probe = tokens, probe
        self.asked: list[dict] = []

    def __call__(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        said = json.loads(body or b"{}")
        if path == "/api/tags":
            return 200, json.dumps({"models": [{"model": "m:latest", "digest": "d" * 64}]}).encode()
        if path == "/api/show":
            assert said["verbose"] is True
            return 200, json.dumps({"model_info": {"tokenizer.ggml.tokens": self.tokens}}).encode()
        if path == "/api/generate":
            return 200, json.dumps({**WHOLE[0], "prompt_eval_count": self.probe}).encode()
        whole = WHOLE[len(self.asked) % len(WHOLE)]
        self.asked.append(said)
        message = {"role": "assistant", "content": whole["response"]}
        if not said["stream"]:
            return 200, json.dumps({**whole, "message": message}).encode()
        parts = [
            {"model": "m", "message": {"role": "assistant", "content": e["token"]}, "done": False, "logprobs": [e]}
            for e in whole["logprobs"]
        ]
        last = {k: v for k, v in whole.items() if k not in ("logprobs", "response")}
        parts.append({**last, "message": {"role": "assistant", "content": ""}})
        return 200, b"".join(json.dumps(part).encode() + b"\n" for part in parts)


def ollama(url: str, **changes):
    settings = {"model": "m", "tokenizer": "tiny", "endpoints": [url], "backoff": 0.01, "concurrency": 1}
    return build("ollama", {**settings, **changes})


@pytest.mark.parametrize("stream", [False, True])
def test_an_ollama_of_another_family_is_asked_in_messages_and_translated(stream):
    with serve(speaker := Speaker(None, 5)) as url:  # "The capital of France is" has 24 bytes, so 24 tokens of ours
        maker = collector(
            teacher=ollama(url, stream=stream),
            prompt=Prompt(system="Be brief.", instruction="Say why.", shots=0, thinking=None),
        )
        assert maker.collect("train", 3).made == 3
    store = maker.open()
    assert store.origin["align"] == {"by": "bytes", "tokenizer": "the server's own"}
    asked = speaker.asked[0]
    assert [m["role"] for m in asked["messages"]] == ["system", "user"]
    assert asked["messages"][1]["content"].endswith("\nSay why.")
    assert (asked["think"], asked["truncate"], asked["options"]["stop"]) == (False, False, [])
    texts = {TINY.decode(store[key].response_ids, skip_special_tokens=True) for key in store.keys()}  # noqa: SIM118
    assert texts <= {whole["response"] for whole in WHOLE} and len(texts) == 3
    for key in sorted(store.keys()):
        trace = store[key]
        body = trace.valid[:-1] if trace.finish == "stop" else trace.valid
        assert body.mean() > 0.9 and trace.teacher_prompt_ids is None
        assert trace.finish == "length" or not trace.valid[-1]
    exact, bounded, unmatched = maker.family.bridge.bytes_by_kind
    assert exact + bounded > 0.9 * (exact + bounded + unmatched)


def test_what_a_server_lists_decides_before_any_count():
    tokens = vocabulary(TINY)
    for listed, probe, foreign in (
        (tokens, 5, False),
        (["x", *tokens[1:]], 24, True),
        (None, 24, False),
        (None, 5, True),
    ):
        with serve(Speaker(listed, probe)) as url:
            assert ollama(url).foreign() is foreign


def test_what_a_server_that_speaks_text_cannot_do_is_refused():
    with serve(Speaker(None, 5)) as url:
        with pytest.raises(ValueError, match="end_row=true asks with a raw prompt"):
            _ = collector(teacher=ollama(url, end_row=True)).family
        thinks = Prompt(system="", instruction="", shots=0, thinking=True)
        with pytest.raises(ValueError, match=r"prompt.thinking=true: a server that renders"):
            collector(teacher=ollama(url), prompt=thinks).requests("train", 1)
        with pytest.raises(ValueError, match=r"reads .* as 5 tokens.*teacher.align=bytes, which translates"):
            collector(teacher=ollama(url, align="same")).collect("train", 1)
    other = build("openai", {"tokenizer": "tiny", "align": "bytes"})
    with pytest.raises(ValueError, match=r"give teacher.own_tokenizer=MODEL"):
        _ = collector(teacher=other).family


@pytest.mark.real
@pytest.mark.parametrize("mode", ["generate", "score"])
def test_a_server_with_ids_is_translated_as_the_same_model_here(mode, tmp_path):
    """SmolLM2 in llama.cpp, for a student of single bytes; against the same model in transformers, seen whole."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("needs the wheel xllamacpp: pip install --no-deps xllamacpp")
    with llama_server() as url:
        settings = {"tokenizer": "tiny", "own_tokenizer": "smollm2", "endpoints": [url], "mode": mode, "top": 64}
        teacher = build("openai", {**settings, "max_new_tokens": 24})
        maker = collector(teacher=teacher, store=str(tmp_path / "s"))
        assert maker.collect("train", 2).made == 2
    store = maker.open()
    requests = {r.key: r for r in maker.requests("train", 2)}
    local = collector(teacher=hf(model="smollm2", mode="score", mass=0.9999, max_k=256)).family.teacher
    for key in sorted(store.keys()):
        trace = store[key]
        check(trace, len(TINY), 0, store.layout.read)
        asked = requests[key]._replace(prompt_ids=requests[key].read_ids, response_ids=trace.response_ids.tolist())
        (truth,) = local.trace([asked])
        assert isinstance(truth, Trace) and np.array_equal(truth.response_ids, trace.response_ids)
        both = trace.valid & truth.valid
        assert both.mean() > 0.8
        first, theirs = (t.logprobs[np.cumsum(t.counts) - t.counts][both] for t in (trace, truth))
        assert np.abs(np.exp(first) - np.exp(theirs)).mean() < 0.06  # 4-bit kernels round
