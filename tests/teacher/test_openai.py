"""teacher=openai against real llama.cpp, and against small servers that speak as vLLM, SGLang and hosted ones do."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from wire_servers import build, generations, llama_server, serve

from ekd.teacher.wire.dialect import whole_characters
from ekd.teacher.wire.vocabulary import Vocabulary, vocabulary_of
from ekd.types import Failure, Request, Trace

pytestmark = pytest.mark.real
WHOLE = generations()
TOKENS = 32


def openai(url: str, **changes):
    settings = {"tokenizer": "smollm2", "endpoints": [url], "max_new_tokens": TOKENS, "backoff": 0.01, "timeout": 120}
    return build("openai", {**settings, "api_key_env": "EKD_TEST_KEY", **changes})


def ids_of(vocabulary: Vocabulary, text: str) -> list[int]:
    return vocabulary.tokenizer(text, add_special_tokens=False)["input_ids"]


def requests(vocabulary: Vocabulary) -> list[Request]:
    return [
        Request(w["id"], w["id"], 0, 7 + n, ids_of(vocabulary, w["request"]["prompt"])) for n, w in enumerate(WHOLE)
    ]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return vocabulary_of("smollm2")


# ---- real llama.cpp


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    """The embedded model as it is, in 4 bits."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("needs the wheel xllamacpp: pip install --no-deps xllamacpp")
    with llama_server() as url:
        yield url


@pytest.fixture(scope="module")
def generated(llama: str, vocabulary: Vocabulary) -> dict[str, Trace]:
    return {t.key: t for t in openai(llama + "/v1").trace(requests(vocabulary)[:4])}


def by_hf(traces: Iterable[Trace]) -> dict[str, Trace]:
    """The same tokens, scored by transformers from the same weights, dequantised."""
    teacher = build("hf", {"model": "smollm2", "mode": "score", "mass": 1.0, "max_k": 64, "batch_size": 4})
    asked = [Request(t.key, t.problem_id, 0, 0, t.prompt_ids.tolist(), t.response_ids.tolist()) for t in traces]
    return {t.key: t for t in teacher.trace(asked)}


def own(trace: Trace) -> np.ndarray:
    """(n,) the logprob of each token itself."""
    return trace.logprobs[np.cumsum(trace.counts) - trace.counts]


def best(trace: Trace) -> list[int]:
    """The most likely id of each row."""
    ends = np.cumsum(trace.counts)
    return [trace.ids[a + trace.logprobs[a:b].argmax()] for a, b in zip(ends - trace.counts, ends, strict=True)]


def compare(traces: Iterable[Trace], truth: dict[str, Trace]) -> tuple[float, float]:
    """Top-1 agreement and mean absolute difference of the tokens' own logprobs; the number of tokens is printed."""
    pairs = [(t, truth[t.key]) for t in traces]
    same = [a == b for t, true in pairs for a, b in zip(best(t), best(true), strict=True)]
    apart = np.abs(np.concatenate([own(t) - own(true) for t, true in pairs]))
    entropy = np.abs(np.concatenate([t.entropy - true.entropy for t, true in pairs]))
    print(
        f"\n{len(same)} tokens: top-1 agreement {np.mean(same):.4f}, mean absolute logprob difference "
        f"{apart.mean():.4f}, entropy (midpoint against exact) {entropy.mean():.4f} nats"
    )
    return float(np.mean(same)), float(apart.mean())


def test_llama_server_agrees_with_transformers_on_the_same_weights(llama: str, vocabulary: Vocabulary) -> None:
    with llama_server("smollm2-f32") as url:
        traces = list(openai(url, max_new_tokens=24).trace(requests(vocabulary)[:4]))
    assert {t.key for t in traces} == {w["id"] for w in WHOLE[:4]}
    assert all(t.valid.all() for t in traces)
    agreement, apart = compare(traces, by_hf(traces))
    assert agreement > 0.97
    assert apart < 0.01


def test_four_bit_kernels_differ_by_their_rounding_only(generated: dict[str, Trace]) -> None:
    """llama.cpp rounds activations to 8 bits where weights have 4; transformers does not."""
    agreement, apart = compare(generated.values(), by_hf(generated.values()))
    assert agreement > 0.9
    assert apart < 0.1


def test_scoring_gives_the_rows_that_generating_gave(
    llama: str, vocabulary: Vocabulary, generated: dict[str, Trace]
) -> None:
    """By a grammar of token ids; the end token by itself."""
    trace = next(t for t in generated.values() if t.finish == "length")
    ids = [*trace.response_ids.tolist()[:12], vocabulary.tokenizer.eos_token_id]
    asked = Request("a", "a", 0, 0, trace.prompt_ids.tolist(), ids)
    (scored,) = openai(llama, mode="score").trace([asked])
    assert (scored.response_ids.tolist(), scored.finish, scored.valid.all()) == (ids, "stop", True)
    assert np.abs(own(scored)[:-1] - own(trace)[:12]).mean() < 0.1
    assert own(scored)[-1] < -1  # nobody would stop there


def test_halves_of_characters_are_unmatched_rows(llama: str, vocabulary: Vocabulary) -> None:
    text = "a 🦄 b"
    ids = vocabulary.spell(text)
    (scored,) = openai(llama, mode="score", max_unmatched=1.0).trace(
        [Request("a", "a", 0, 0, ids_of(vocabulary, "Say:"), ids)]
    )
    assert scored.finish == "length"
    unmatched = b"".join(vocabulary.bytes_of[i] for i, valid in zip(ids, scored.valid, strict=True) if not valid)
    assert unmatched.decode().strip() == "🦄"
    asked = Request("b", "b", 0, 0, ids_of(vocabulary, "🦄🦄🦄🦄🦄🦄"))
    (made,) = openai(llama, temperature=0, max_new_tokens=6, max_unmatched=1.0).trace([asked])
    shown = whole_characters(made.response_ids.tolist(), vocabulary)
    assert made.valid.tolist() == shown
    assert not all(shown)


def test_more_alternatives_than_ollama_gives(llama: str, vocabulary: Vocabulary) -> None:
    (trace,) = openai(llama, top=64, max_new_tokens=2).trace(requests(vocabulary)[:1])
    assert trace.counts.min() >= 64


def test_the_same_seed_gives_the_same_text(llama: str, vocabulary: Vocabulary, generated: dict[str, Trace]) -> None:
    asked = requests(vocabulary)[0]
    (again,) = openai(llama).trace([asked])
    assert again.response_ids[:8].tolist() == generated[asked.key].response_ids[:8].tolist()


# ---- servers that are not here, as their sources and documents say


def distribution(ids: list[int], n: int) -> list[tuple[int, float]]:
    """n alternatives, the token itself first; any fixed numbers will do."""
    return [(ids[-1], math.log(0.5)), *((1000 + k, math.log(0.4 / n)) for k in range(n - 1))]


class Speaker:
    """Answers with the tokens of one fixed text. temper: whether logprobs follow the temperature (SGLang's default)."""

    def __init__(self, vocabulary: Vocabulary, owner: str, most: int = 20, temper: bool = False) -> None:
        self.v, self.owner, self.most, self.temper = vocabulary, owner, most, temper
        self.end = vocabulary.tokenizer.eos_token_id
        self.ids = [*vocabulary.spell("So it is 42."), self.end]
        self.asked: list[dict] = []

    def __call__(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if path == "/v1/models":
            return 200, json.dumps({"data": [{"id": "m", "owned_by": self.owner, "root": "org/m"}]}).encode()
        self.asked.append(json.loads(body))
        return self.answer(path, self.asked[-1])

    def answer(self, path: str, body: dict) -> tuple[int, bytes]:
        said = {"/v1/completions": self.completions, "/generate": self.native}[path](body)
        return (400 if "error" in said else 200), json.dumps(said).encode()

    def completions(self, body: dict) -> dict:
        top = body.get("logprobs") or body.get("prompt_logprobs")
        if top > self.most:
            return {"error": {"message": f"Requested {top} logprobs, which is greater than max allowed: {self.most}"}}
        if "prompt_logprobs" in body:
            prompt = body["prompt"]
            places = [
                {str(i): {"logprob": v, "rank": 1, "decoded_token": ""} for i, v in distribution([token], top)}
                for token in prompt[1:]
            ]
            return {"choices": [{"text": "x", "finish_reason": "length", "prompt_logprobs": [None, *places]}]}
        ids = self.ids[: body["max_tokens"]]
        name = (lambda i: f"token_id:{i}") if body.get("return_tokens_as_token_ids") else self.name
        lists = {
            "tokens": [name(i) for i in ids],
            "token_logprobs": [math.log(0.5)] * len(ids),
            "top_logprobs": [{name(i): v for i, v in distribution([token], top)} for token in ids],
        }
        text = self.v.tokenizer.decode(ids, skip_special_tokens=True)
        finish = "stop" if ids[-1] == self.end else "length"
        prompt = body["prompt"]
        read = len(self.v.tokenizer(prompt, add_special_tokens=False)["input_ids"]) if isinstance(prompt, str) else 0
        usage = {"prompt_tokens": read, "completion_tokens": len(ids)}
        return {"choices": [{"text": text, "finish_reason": finish, "logprobs": lists}], "usage": usage}

    def name(self, token: int) -> str:
        return self.v.tokenizer.decode([token])

    def native(self, body: dict) -> dict:
        choice, top = body["sampling_params"], body["top_logprobs_num"]
        ids = self.ids[: choice["max_new_tokens"]]
        scale = choice["temperature"] or 1.0 if self.temper else 1.0
        meta = {"finish_reason": {"type": "stop" if ids[-1] == self.end else "length"}}
        told = [[[v / scale, i, None] for i, v in distribution([token], top)] for token in ids]
        meta |= {"output_token_logprobs": [t[0] for t in told], "output_top_logprobs": told}
        if body["logprob_start_len"] >= 0:
            given = body["input_ids"][body["logprob_start_len"] :]
            told = [[[v, i, None] for i, v in distribution([token], top)] for token in given]
            meta |= {
                "input_token_logprobs": [[None, given[0], None], *(t[0] for t in told[1:])],
                "input_top_logprobs": [None, *told[1:]],
            }
        return {"text": self.v.tokenizer.decode(ids, skip_special_tokens=True), "output_ids": ids, "meta_info": meta}


@pytest.mark.parametrize("owner", ["vllm", "sglang", "someone"])
def test_each_kind_of_server_gives_ids_and_rows(vocabulary: Vocabulary, owner: str) -> None:
    speaker = Speaker(vocabulary, owner)
    with serve(speaker) as url:
        teacher = openai(url)
        origin = teacher.origin()
        traces = list(teacher.trace(requests(vocabulary)))
    assert origin["server"] == {"someone": "text"}.get(owner, owner)
    assert (origin["root"], url in json.dumps(origin)) == ("org/m", False)
    assert len(traces) == len(WHOLE)
    for trace in traces:
        assert trace.response_ids.tolist() == speaker.ids
        assert (trace.finish, trace.valid.all()) == ("stop", True)
        np.testing.assert_allclose(own(trace), math.log(0.5), rtol=1e-6)
    sent = speaker.asked[-1]
    assert (sent["sampling_params"] if owner == "sglang" else sent)["temperature"] == 0.7


@pytest.mark.parametrize("owner", ["vllm", "sglang"])
def test_scoring(vocabulary: Vocabulary, owner: str) -> None:
    ids = [*vocabulary.spell("The answer is 7."), vocabulary.tokenizer.eos_token_id]
    asked = [r._replace(response_ids=ids) for r in requests(vocabulary)]
    with serve(Speaker(vocabulary, owner)) as url:
        teacher = openai(url, mode="score")
        traces = list(teacher.trace(asked))
        assert "temperature" not in teacher.origin()
    for trace in traces:
        assert (trace.response_ids.tolist(), trace.finish, trace.valid.all()) == (ids, "stop", True)
        assert own(trace).tolist() == pytest.approx([math.log(0.5)] * len(ids))
        assert trace.counts.tolist() == [20] * len(ids)


def refusal(teacher) -> str:
    with pytest.raises(ValueError) as refused:
        teacher.origin()
    return str(refused.value)


def test_what_is_impossible_is_refused_before_any_work_with_the_way_out(vocabulary: Vocabulary) -> None:
    with serve(Speaker(vocabulary, "vllm", most=20)) as url:
        assert "max allowed: 20" in refusal(openai(url, top=64))
        assert "it serves m; give one as teacher.model, not x" in refusal(openai(url, model="x"))
    with serve(Speaker(vocabulary, "sglang", temper=True)) as url:
        assert "SGLANG_RETURN_ORIGINAL_LOGPROB=1" in refusal(openai(url))
        assert openai(url, temperature=1.0).origin()["temperature"] == 1.0
    with serve(Speaker(vocabulary, "library")) as url:
        assert "use teacher=ollama" in refusal(openai(url))
    with serve(Speaker(vocabulary, "someone")) as url:
        assert "only llama-server, vLLM and SGLang" in refusal(openai(url, mode="score"))
    with serve(lambda *_: (401, b"{}")) as url:
        assert "wants a key (HTTP 401): export it, and give teacher.api_key_env" in refusal(openai(url))
    with serve(lambda *_: (200, b"[]")) as url:
        assert "nothing answers" not in refusal(openai(url, attempts=1))
    assert "nothing answers at http://127.0.0.1:1" in refusal(openai("http://127.0.0.1:1"))


def test_a_server_of_another_family_is_refused(vocabulary: Vocabulary) -> None:
    """Its ids are numbers of another vocabulary: they decode to other texts here."""

    class Foreign(Speaker):
        def completions(self, body: dict) -> dict:
            said = super().completions(body)
            said["choices"][0]["text"] = "Something else entirely."
            return said

    with serve(Foreign(vocabulary, "vllm")) as url:
        assert "different families" in refusal(openai(url))


def test_the_key_is_sent_and_appears_nowhere_else(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key = "sk-very-secret-4711"
    monkeypatch.setenv("EKD_TEST_KEY", key)
    caplog.set_level(logging.DEBUG)
    speaker, seen = Speaker(vocabulary, "vllm"), []

    def answer(method: str, path: str, body: bytes, headers) -> tuple[int, bytes]:
        seen.append(headers.get("Authorization"))
        return (
            (500, b'{"error": "no"}')
            if body and json.loads(body)["max_tokens"] == TOKENS
            else speaker(method, path, body)
        )

    with serve(answer, headers=True) as url:
        teacher = openai(url, attempts=2)
        said = [*teacher.trace(requests(vocabulary)[:2]), teacher.origin(), teacher]
    assert set(seen) == {f"Bearer {key}"}
    assert isinstance(said[0], Failure)
    assert key not in repr(said) + caplog.text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mode": "guess"}, "generate or score"),
        ({"server": "tgi"}, "teacher.server is auto, llama, vllm, sglang, text"),
        ({"server": "text", "mode": "score"}, "cannot score"),
        ({"top": 0}, "teacher.top"),
        ({"temperature": -0.1}, "temperature"),
        ({"max_unmatched": -1}, "max_unmatched"),
        ({"timeout": 0}, "timeout"),
    ],
)
def test_impossible_settings_are_refused_when_built(changes: dict, reason: str) -> None:
    with pytest.raises(Exception, match=reason):
        openai("http://127.0.0.1:1", **changes)
