"""teacher=ollama against Ollama as recorded (tests/fixtures: trimmed from one real server's answers, byte for byte)."""

from __future__ import annotations

import json
from itertools import pairwise
from math import exp, log
from pathlib import Path

import numpy as np
import ollama as ollama_client
import pytest
from wire_servers import FIXTURES, SHARED, Replay, build, exchanges, generations, serve

from ekd.teacher.wire.matching import Entry, align_entries, nameless_end
from ekd.teacher.wire.ollama_server import entry_of
from ekd.teacher.wire.vocabulary import Vocabulary, vocabulary_of
from ekd.types import Failure, Request, Trace

pytestmark = pytest.mark.real
PAIRS = exchanges()
WHOLE = generations()


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return vocabulary_of("smollm2")


def ollama(url: str, **changes):
    return build("ollama", {"model": "smollm2", "tokenizer": "smollm2", "endpoints": [url], "backoff": 0.01, **changes})


def request(vocabulary: Vocabulary, prompt: str, key: str = "a", seed: int = 0) -> Request:
    ids = vocabulary.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return Request(key, "problem-" + key, 0, seed, ids)


def requests(vocabulary: Vocabulary, whole: list[dict]) -> list[Request]:
    return [request(vocabulary, w["request"]["prompt"], w["id"], w["request"]["options"]["seed"]) for w in whole]


def one(teacher, asked: Request) -> Trace | Failure:
    (answer,) = teacher.trace([asked])
    return answer


def ask(vocabulary: Vocabulary, name: str, **changes) -> Trace | Failure:
    """What the teacher makes of one recorded exchange."""
    said = json.loads(PAIRS[name]["request"]["body_raw"])
    settings = {
        "max_new_tokens": said["options"]["num_predict"],
        "stream": said.get("stream", True),
        "max_unmatched": 1.0,
    }
    with serve(Replay(pairs=[PAIRS[name], *greeting()])) as url:
        teacher = ollama(url, **settings, model=said["model"], **changes)
        return one(teacher, request(vocabulary, said["prompt"]))


def greeting() -> list[dict]:
    return [PAIRS["tags"], PAIRS["plain_position_no_format"]]


def valid_rows_are_right(trace: Trace, vocabulary: Vocabulary, text: str) -> None:
    """The ids spell the text, and each valid row's token is the tokenizer's own for its bytes of the text."""
    body = trace.response_ids[: -(trace.finish == "stop") or None].tolist()
    pieces = [vocabulary.bytes_of[i] for i in body]
    assert b"".join(pieces).decode() == text
    spelled = vocabulary.tokenizer(text, add_special_tokens=False)["input_ids"]
    own = dict(zip(np.cumsum([0, *[len(vocabulary.bytes_of[i]) for i in spelled]]).tolist(), spelled, strict=False))
    starts = np.cumsum([0, *map(len, pieces)]).tolist()
    for start, token, valid in zip(starts, body, trace.valid, strict=False):
        assert not valid or own.get(start) == token


def well_formed(trace: Trace) -> None:
    """Every row as types.Trace promises; tail and entropy against a slow reading of the formula."""
    starts = np.cumsum([0, *trace.counts]).tolist()
    for row, (start, stop) in enumerate(pairwise(starts)):
        ids, logprobs = trace.ids[start:stop], trace.logprobs[start:stop].astype(float)
        assert ids[0] == trace.response_ids[row]
        assert len(set(ids.tolist())) == len(ids)
        assert np.all(np.diff(logprobs[1:]) <= 0)
        if not trace.valid[row]:
            assert (logprobs.tolist(), trace.log_tail[row], trace.entropy[row]) == ([0.0], -np.inf, 0.0)
            continue
        tail = 1 - sum(exp(v) for v in logprobs)
        known = -sum(v * exp(v) for v in logprobs)
        lower = known - (tail * log(tail) if tail > 0 else 0)
        upper = lower + max(tail, 0) * log(49152 - len(ids))
        assert trace.entropy[row] == pytest.approx((lower + upper) / 2, abs=1e-4)
        assert exp(trace.log_tail[row]) == pytest.approx(tail, abs=1e-6)


@pytest.mark.parametrize("stream", [False, True])
def test_whole_generations_become_right_rows(vocabulary: Vocabulary, stream: bool) -> None:
    replay = Replay(WHOLE, PAIRS.values())
    with serve(replay) as url:
        teacher = ollama(url, max_new_tokens=256, num_ctx=2048, stream=stream)
        traces = list(teacher.trace(requests(vocabulary, WHOLE)))
    by_id = {w["id"]: w["response"] for w in WHOLE}
    assert {t.key for t in traces} == set(by_id)
    for trace in traces:
        said = by_id[trace.key]
        assert (trace.finish, len(trace.response_ids)) == (said["done_reason"], said["eval_count"])
        assert trace.exact is False
        assert trace.log_norm.shape == (said["eval_count"], 0)
        if trace.finish == "stop":
            assert trace.response_ids[-1] == vocabulary.tokenizer.eos_token_id
            assert not trace.valid[-1]
        valid_rows_are_right(trace, vocabulary, said["response"])
        well_formed(trace)
    body = replay.asked[-1]
    assert (body["raw"], body["logprobs"], body["top_logprobs"]) == (True, True, 20)
    assert (body["truncate"], body["shift"], body["options"]["stop"]) == (False, False, [])
    assert body["options"]["num_ctx"] == 2048


def test_a_row_says_what_the_server_said(vocabulary: Vocabulary) -> None:
    with serve(Replay(WHOLE, PAIRS.values())) as url:
        trace = one(ollama(url, max_new_tokens=256), requests(vocabulary, WHOLE)[0])
    entry = WHOLE[0]["response"]["logprobs"][0]
    said = [(entry["token"], entry["logprob"])]
    # "" is an end token or half a character; " " may be a space and half a character
    said += [(t["token"], t["logprob"]) for t in entry["top_logprobs"] if t["token"] not in ("", " ", entry["token"])]
    n = trace.counts[0]
    assert [vocabulary.bytes_of[i].decode() for i in trace.ids[:n].tolist()] == [token for token, _ in said]
    np.testing.assert_allclose(trace.logprobs[:n], [value for _, value in said], rtol=1e-6)


@pytest.mark.skipif(not (SHARED / "ollama").exists(), reason="the full recordings are not here")
def test_of_all_recorded_generations_99_percent_of_rows_are_valid(vocabulary: Vocabulary) -> None:
    whole = generations(SHARED / "ollama" / "traces_gsm8k.jsonl.gz")
    with serve(Replay(whole, PAIRS.values())) as url:
        traces = list(ollama(url, max_new_tokens=256, concurrency=2).trace(requests(vocabulary, whole)))
    texts = {w["id"]: w["response"]["response"] for w in whole}
    body = np.concatenate([t.valid[: -(t.finish == "stop") or None] for t in traces])
    assert len(traces) == 48
    assert body.mean() >= 0.99
    for trace in traces:
        valid_rows_are_right(trace, vocabulary, texts[trace.key])


def test_a_space_in_a_list_is_left_in_the_tail(vocabulary: Vocabulary) -> None:
    """It may be " " or any of 37 tokens that are a space and the first half of a character; some lists hold several."""
    space = vocabulary.id_of[b" "]
    lists = [e["top_logprobs"] for w in WHOLE for e in w["response"]["logprobs"]]
    assert max(sum(t["token"] == " " for t in top) for top in lists) >= 3
    with serve(Replay(WHOLE, PAIRS.values())) as url:
        traces = list(ollama(url, max_new_tokens=256).trace(requests(vocabulary, WHOLE)))
    for trace in traces:
        first = np.cumsum(trace.counts) - trace.counts
        assert space not in np.delete(trace.ids, first)
    assert any(space in t.ids for t in traces)  # where it was the token itself


@pytest.mark.parametrize("name", [*(f"raw_{n}_nostream" for n in range(7)), "raw_2_stream"])
def test_halves_of_characters_become_unmatched_rows(vocabulary: Vocabulary, name: str) -> None:
    trace = ask(vocabulary, name)
    parts = [json.loads(line) for line in PAIRS[name]["response_body"].splitlines()]
    assert isinstance(trace, Trace)
    valid_rows_are_right(trace, vocabulary, "".join(p["response"] for p in parts))
    well_formed(trace)
    shown = sum(len(p.get("logprobs") or []) for p in parts)
    assert trace.valid.sum() <= shown
    assert trace.valid.all() == (shown == parts[-1]["eval_count"])


def test_an_answer_without_one_whole_character_is_a_failure(vocabulary: Vocabulary) -> None:
    assert "whole character" in ask(vocabulary, "cut_in_middle_num_predict").reason


def entries_of(name: str) -> tuple[list[Entry], str, int]:
    said = json.loads(PAIRS[name]["response_body"])
    entries = [
        Entry(e["token"].encode(), e["logprob"], [(t["token"].encode(), t["logprob"]) for t in e["top_logprobs"]])
        for e in said["logprobs"]
    ]
    return entries, said["response"], said["eval_count"]


def test_behind_merged_tokens_nothing_is_believed(vocabulary: Vocabulary) -> None:
    """Held for a stop string, "<" and "li" came as one entry "<li" with the logprob of "li"."""
    entries, text, tokens = entries_of("html_lt_hold_with_default_stops")
    assert tokens > len(entries)
    ids, rows = align_entries(entries, text, tokens, vocabulary)
    unmatched = [vocabulary.bytes_of[i] for i, row in zip(ids, rows, strict=True) if row is None]
    assert b"".join(vocabulary.bytes_of[i] for i in ids).decode() == text
    assert unmatched[0] == b"<"  # the first of all: what follows may be conditioned on another way of writing "<li"
    assert len(unmatched) == len(ids)
    clean, text, tokens = entries_of("html_lt_hold_stop_empty_list")
    assert None not in align_entries(clean, text, tokens, vocabulary)[1]


@pytest.mark.parametrize("name", ["c2", "emoji_list", "chinese"])
def test_lost_half_characters_as_recorded(vocabulary: Vocabulary, name: str) -> None:
    """The count proves how each hole was written, so that every entry with one id is a row, also those that were
    sampled outside of their lists."""
    pair = exchanges("ollama_thinking")[f"lost_half_characters_{name}"]
    said = json.loads(pair["response_body"])
    entries = [entry_of(e) for e in ollama_client.GenerateResponse(**said).logprobs]
    tokens = said["eval_count"] - (said["done_reason"] == "stop")
    ids, rows = align_entries(entries, said["response"], tokens, vocabulary)
    assert len(ids) == tokens
    named = [vocabulary.id_of[e.spelling] for e in entries if e.spelling in vocabulary.id_of]
    assert [i for i, row in zip(ids, rows, strict=True) if row is not None] == named
    assert [row.target for row in rows if row] == [e.logprob for e in entries if e.spelling in vocabulary.id_of]
    # with one token more there is another way of writing a hole, and nothing behind the first one is believed
    _, doubted = align_entries(entries, said["response"], tokens + 1, vocabulary)
    first = next(n for n, row in enumerate(rows) if row is None) if None in rows else 3  # " report", outside its list
    assert doubted == [*rows[:first], *[None] * (len(rows) - first)]


@pytest.mark.parametrize("name", ["c2", "emoji_list"])
def test_valid_rows_behind_lost_halves_are_what_the_model_says_of_these_very_ids(
    vocabulary: Vocabulary, name: str
) -> None:
    """Scored by transformers: a row conditioned on other tokens than the teacher's is off by several nats."""
    pair = exchanges("ollama_thinking")[f"lost_half_characters_{name}"]
    said = ollama_client.GenerateResponse(**json.loads(pair["response_body"]))
    ids, rows = align_entries([entry_of(e) for e in said.logprobs], said.response, said.eval_count, vocabulary)
    asked = request(vocabulary, json.loads(pair["request"]["body_raw"])["prompt"])._replace(response_ids=ids)
    (truth,) = build("hf", {"model": "smollm2", "mode": "score", "mass": 1.0, "max_k": 1}).trace([asked])
    own = truth.logprobs[np.cumsum(truth.counts) - truth.counts]
    apart = [abs(own[n] - row.target) for n, row in enumerate(rows) if row is not None]
    assert len(apart) >= 4
    assert max(apart) < 0.5  # rounding of the 4-bit kernels


def test_an_entry_whose_logprob_cannot_be_its_own_is_hard(vocabulary: Vocabulary) -> None:
    """Absent from its own list, and yet more likely than the last of it: the logprob is another token's."""
    entries, text, tokens = entries_of("html_lt_hold_stop_empty_list")
    strange = entries[3]._replace(top=[t for t in entries[3].top if t[0] != entries[3].spelling])
    _, rows = align_entries([*entries[:3], strange, *entries[4:]], text, tokens, vocabulary)
    assert [n for n, row in enumerate(rows) if row is None] == [3]


def test_entries_that_do_not_spell_the_response_are_not_believed(vocabulary: Vocabulary) -> None:
    entries, text, tokens = entries_of("html_lt_hold_stop_empty_list")
    assert set(align_entries(entries[1:], text, tokens - 1, vocabulary)[1]) == {None}


@pytest.mark.parametrize("stream", [False, True])
def test_a_silent_abort_is_told_and_not_asked_again(vocabulary: Vocabulary, stream: bool) -> None:
    name = "token_repeat_0_stream" if stream else "token_repeat_0"
    assert "repeats ' buffalo' without end" in ask(vocabulary, name).reason


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_does_not_fit_is_told(vocabulary: Vocabulary, stream: bool) -> None:
    pair = PAIRS["long_prompt_num_ctx64_truncate_false" + "_stream" * stream]
    prompt = json.loads(pair["request"]["body_raw"])["prompt"]
    with serve(Replay(pairs=[pair, *greeting()])) as url:
        said = json.loads(pair["request"]["body_raw"])["options"]["num_predict"]
        here = one(ollama(url, num_ctx=300, max_new_tokens=said, stream=stream), request(vocabulary, prompt))
        there = one(ollama(url, max_new_tokens=said, stream=stream), request(vocabulary, prompt))
    assert "teacher.num_ctx=300 leaves no room" in here.reason
    assert there.reason.endswith(
        "request (1490 tokens) exceeds the available context size (256 tokens), try increasing it; give a larger "
        "teacher.num_ctx"
    )


def test_an_answer_that_fills_the_context_ends_with_length_and_says_what_cut_it(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ekd.teacher.ollama.TOP", 1)  # as many as were recorded
    with pytest.warns(UserWarning, match=r"cut after 251 of teacher.max_new_tokens=400 .* than teacher.num_ctx=4096"):
        trace = ask(vocabulary, "ctx256_out400_shift_false", num_ctx=4096)
    assert (trace.finish, len(trace.response_ids)) == ("length", 251)


def test_the_end_token_gets_its_row_when_asked_for(vocabulary: Vocabulary) -> None:
    names = ["at_eos_position_num_predict_1", "at_eos_position_format_string_trick"]
    prompt = json.loads(PAIRS[names[0]]["request"]["body_raw"])["prompt"]
    with serve(Replay(pairs=[*(PAIRS[n] for n in names), *greeting()])) as url:
        unmatched = one(ollama(url, max_new_tokens=1, temperature=0), request(vocabulary, prompt))
        known = one(ollama(url, max_new_tokens=1, temperature=0, end_row=True), request(vocabulary, prompt))
    end = vocabulary.tokenizer.eos_token_id
    assert (unmatched.response_ids.tolist(), unmatched.valid.tolist(), unmatched.counts.tolist()) == (
        [end],
        [False],
        [1],
    )
    assert (known.response_ids.tolist(), known.valid.tolist(), known.counts.tolist()) == ([end], [True], [19])
    assert known.logprobs[0] == pytest.approx(-0.41906303)
    well_formed(known)


def test_among_several_nameless_tokens_only_the_most_likely_of_all_is_the_end(vocabulary: Vocabulary) -> None:
    said = json.loads(PAIRS["emoji_position_format_string_trick"]["response_body"])
    top = [(t["token"].encode(), t["logprob"]) for t in said["logprobs"][0]["top_logprobs"]]
    assert nameless_end(top, vocabulary).target == top[0][1]
    assert nameless_end(top[1:], vocabulary) is None
    assert nameless_end([(b" a", -0.1)], vocabulary) is None


def test_an_engine_that_dies_in_the_middle_is_asked_again(vocabulary: Vocabulary) -> None:
    """First as recorded: HTTP 200, then a line {"error": ...}; then a whole answer."""
    whole, dying = Replay(WHOLE, PAIRS.values()), [PAIRS["runner_killed_midway_stream"]["response_body"].encode()]

    def answer(method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if dying and path == "/api/generate" and json.loads(body)["options"]["num_predict"] == 256:
            return 200, dying.pop()
        return whole(method, path, body)

    with serve(answer) as url:
        trace = one(ollama(url, max_new_tokens=256, stream=True), requests(vocabulary, WHOLE)[0])
    assert trace.finish == "stop"
    assert dying == []


@pytest.mark.parametrize(
    ("name", "stream", "reason"),
    [
        ("runner_killed_midway_stream", True, "(3 attempts)"),
        ("runner_killed_midway_nostream", False, "unexpected EOF (3 attempts)"),
        ("bad_option_type", False, "must be of type integer (3 attempts)"),
        ("empty_prompt_raw", False, "generated nothing (done_reason 'load')"),
        ("top_logprobs_21", False, "top_logprobs must be between 0 and 20"),
        ("top_logprobs_without_logprobs", False, "without logprobs"),
    ],
)
def test_what_cannot_be_used_is_set_aside_with_the_reason(
    vocabulary: Vocabulary, name: str, stream: bool, reason: str
) -> None:
    status, body = int(PAIRS[name]["response_head"].split()[1]), PAIRS[name]["response_body"].encode()
    greet = Replay(pairs=greeting())

    def answer(method: str, path: str, asked: bytes) -> tuple[int, bytes]:
        if path == "/api/generate" and json.loads(asked)["options"]["num_predict"] != 1:
            return status, body
        return greet(method, path, asked)

    with serve(answer) as url:
        failure = one(ollama(url, stream=stream, attempts=3), request(vocabulary, "The capital of France is"))
    assert reason in failure.reason


def test_a_server_that_cannot_be_the_teacher_is_refused_before_any_work(vocabulary: Vocabulary) -> None:
    asked = request(vocabulary, "x")
    with serve(Replay(pairs=greeting())) as url, pytest.raises(ValueError, match=r"`ollama pull nope` there, or"):
        list(ollama(url, model="nope").trace([asked]))
    old = [PAIRS["tags"], {**PAIRS["plain_position_no_format"]}]
    said = json.loads(old[1]["response_body"])
    old[1]["response_body"] = json.dumps({k: v for k, v in said.items() if k != "logprobs"})
    with serve(Replay(pairs=old)) as url, pytest.raises(ValueError, match=r"older than 0\.12\.11"):
        list(ollama(url).trace([asked]))
    with pytest.raises(ValueError, match=r"nothing answers at http://127\.0\.0\.1:1: start it with `ollama serve`"):
        list(ollama("http://127.0.0.1:1").trace([asked]))


def test_a_foreign_tokenizer_is_refused(vocabulary: Vocabulary) -> None:
    """The student's tokenizer has one token a byte; the recorded teacher has 49,152."""
    tiny = vocabulary_of("tiny")
    asked = [request(tiny, w["request"]["prompt"], w["id"], w["request"]["options"]["seed"]) for w in WHOLE]
    with serve(Replay(WHOLE, PAIRS.values())) as url:
        teacher = ollama(url, tokenizer="tiny", max_new_tokens=256)
        with pytest.raises(
            ValueError, match=r"reads 'The capital of France is' as 5 tokens, .* as 24: their tokenizers"
        ):
            list(teacher.trace(asked))


def test_a_foreign_tokenizer_is_refused_after_the_first_prompt_count(vocabulary: Vocabulary) -> None:
    """One that reads the probe as we do, but not the first prompt. Later, a strange prompt costs its answer alone."""
    asked = requests(vocabulary, WHOLE)
    longer = [{**w, "response": {**w["response"], "prompt_eval_count": 7}} for w in WHOLE]
    replay = Replay([*longer[:1], *WHOLE[1:]], PAIRS.values())
    with serve(replay) as url:
        teacher = ollama(url, max_new_tokens=256, concurrency=1)
        with pytest.raises(ValueError, match=r"read the prompt as 7 tokens, .*their tokenizers differ"):
            list(teacher.trace(asked))
        assert len(replay.asked) <= 3  # the probe, an answer, and at most one that was sent before it was refused
        answers = list(ollama(url, max_new_tokens=256, concurrency=1).trace([*asked[1:], asked[0]]))
    assert [isinstance(a, Failure) for a in answers] == [False] * (len(WHOLE) - 1) + [True]


def test_many_unmatched_rows_are_refused_and_nothing_is_passed_on(vocabulary: Vocabulary) -> None:
    """As above, but the server does not say how long it found the prompts."""
    tiny = vocabulary_of("tiny")
    asked = [request(tiny, w["request"]["prompt"], w["id"], w["request"]["options"]["seed"]) for w in WHOLE]
    mute = [{**w, "response": {k: v for k, v in w["response"].items() if k != "prompt_eval_count"}} for w in WHOLE]
    probe = {**PAIRS["plain_position_no_format"]}
    probe["response_body"] = probe["response_body"].replace("prompt_eval_count", "not_told")
    with serve(Replay(mute, [PAIRS["tags"], probe])) as url:
        traces = ollama(url, tokenizer="tiny", max_new_tokens=256).trace(asked)
        with pytest.raises(ValueError, match="are not tokens of the student's tokenizer"):
            next(traces)


def test_a_server_that_adds_bos_itself_gets_the_prompt_without(vocabulary: Vocabulary) -> None:
    """llama.cpp puts it in front of every prompt of the Llama family; the chat template has it too."""
    replay = Replay(WHOLE, PAIRS.values())

    def adds_bos(method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if path != "/api/generate":
            return replay(method, path, body)
        said = json.loads(body)
        whole = "<|im_start|>" + said["prompt"] if said["options"]["num_predict"] == 256 else said["prompt"]
        status, content = replay(method, path, json.dumps({**said, "prompt": whole}).encode())
        read = json.loads(content)
        read["prompt_eval_count"] += said["options"]["num_predict"] == 1
        return status, json.dumps(read).encode()

    with serve(adds_bos) as url:
        trace = one(ollama(url, max_new_tokens=256), requests(vocabulary, WHOLE)[0])
    assert isinstance(trace, Trace)


def test_origin_names_the_digest_and_no_endpoint(vocabulary: Vocabulary) -> None:
    with serve(Replay(pairs=greeting())) as url:
        origin = ollama(url).origin()
    assert origin["digest"].startswith("06e5e7cc6e85")
    assert url not in json.dumps(origin)
    assert json.loads(json.dumps(origin)) == origin


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mode": "score"}, "teacher=ollama can only generate"),
        ({"num_ctx": 64, "max_new_tokens": 8}, "num_ctx is 256 or more"),
        ({"max_new_tokens": 0}, "max_new_tokens is from 1"),
        ({"temperature": -1}, "temperature is 0"),
        ({"top_p": 0}, "top_p <= 1"),
        ({"max_unmatched": 2}, "max_unmatched is a share"),
        ({"timeout": 0}, "timeout is more than 0"),
        ({"endpoints": []}, "at least one"),
        ({"endpoints": ["localhost:11434"]}, "begins with http"),
        ({"concurrency": 0}, "concurrency"),
        ({"patience": -1}, "patience"),
    ],
)
def test_impossible_settings_are_refused_when_built(changes: dict, reason: str) -> None:
    with pytest.raises(Exception, match=reason):
        ollama("http://127.0.0.1:1", **changes)


def test_fixtures_stay_small() -> None:
    assert sum(f.stat().st_size for f in Path(FIXTURES).iterdir()) < 700_000
