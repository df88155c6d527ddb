"""Servers that mean no good, or do not work: a sentence each, no secret printed, no run that never ends."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from test_openai import Speaker, openai, refusal, requests
from wire_servers import Replay, build, exchanges, generations, serve

from ekd.cli.door import door
from ekd.teacher.wire.bounded import largest_answer
from ekd.teacher.wire.faults import clean_line
from ekd.teacher.wire.transport import Wire
from ekd.teacher.wire.vocabulary import Vocabulary, vocabulary_of
from ekd.types import Failure, Request, Trace

pytestmark = pytest.mark.real
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return vocabulary_of("smollm2")


def spoilt(speaker: Speaker, change: Change, n: int = 1) -> Callable:
    """The speaker; the n-th of its real answers (not the probe's) is changed."""
    asked = count(1)

    def answer(method: str, path: str, body: bytes) -> tuple[int, bytes]:
        status, content = speaker(method, path, body)
        if not body or json.loads(body).get("max_tokens") != 32 or next(asked) != n:
            return status, content
        said = json.loads(content)
        changed = change(said)
        return status, changed if isinstance(changed, bytes) else json.dumps(said).encode()

    return answer


def top(said: dict, place: int = 1) -> dict:
    return said["choices"][0]["logprobs"]["top_logprobs"][place]


def own(said: dict, value: Any) -> None:
    said["choices"][0]["logprobs"]["token_logprobs"][2] = value


UNSOUND: dict[str, Change] = {
    "minus infinity": lambda said: top(said).update({"token_id:1000": -float("inf")}),
    "not a number": lambda said: top(said).update({"token_id:1000": float("nan")}),
    "own minus infinity": lambda said: own(said, -float("inf")),
    "own null": lambda said: own(said, None),
    "own a text": lambda said: own(said, "-0.5"),
    "own a truth": lambda said: own(said, True),
    "own beyond every float": lambda said: own(said, -(10**400)),
    "id -1": lambda said: top(said).update({"token_id:-1": -9.0}),
    "a bad id": lambda said: said["choices"][0]["logprobs"]["tokens"].__setitem__(0, "token_id:999999999999"),
    "no id": lambda said: said["choices"][0]["logprobs"]["tokens"].__setitem__(0, "token_id:"),
    "a row too few": lambda said: said["choices"][0]["logprobs"]["top_logprobs"].pop(),
    "no list": lambda said: said["choices"][0]["logprobs"]["top_logprobs"].__setitem__(1, None),
    "no choices": lambda said: said.update(choices=[]),
    "choices of another kind": lambda said: said.update(choices="none"),
    "a list": lambda said: b"[]",
    "deep": lambda said: b'{"choices":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "a long number": lambda said: b'{"choices": ' + b"9" * 5000 + b"}",
    "not Unicode": lambda said: b'{"choices": "\xff\xfe"}',
}


@pytest.mark.parametrize("name", UNSOUND)
def test_an_unsound_answer_is_one_failure_that_names_the_server(vocabulary: Vocabulary, name: str) -> None:
    asked = requests(vocabulary)[:3]
    with serve(spoilt(Speaker(vocabulary, "vllm"), UNSOUND[name], 2)) as url:
        answers = list(openai(url, attempts=1, concurrency=1, max_new_tokens=32).trace(asked))
    assert sorted(type(answer).__name__ for answer in answers) == ["Failure", "Trace", "Trace"]
    (failure,) = (answer for answer in answers if isinstance(answer, Failure))
    assert url in failure.reason
    assert failure.reason.isprintable()


def test_more_tokens_than_were_asked_for(vocabulary: Vocabulary) -> None:
    class Chatty(Speaker):
        def completions(self, body: dict) -> dict:
            self.ids = [*self.ids[:1] * 5000, self.end]
            return super().completions({**body, "max_tokens": 10**6})

    with serve(Chatty(vocabulary, "vllm")) as url:
        assert "5001 tokens where at most 8 were asked for" in refusal(openai(url, attempts=1))


def test_alternatives_for_the_first_token_only_are_speculative_decoding(vocabulary: Vocabulary) -> None:
    """In the probe the server is refused; in a later answer that answer."""

    def speculate(said: dict) -> None:
        lists = said["choices"][0]["logprobs"]["top_logprobs"]
        lists[1:] = [{token: 0.0} for token in said["choices"][0]["logprobs"]["tokens"][1:]]

    class Drafts(Speaker):
        def completions(self, body: dict) -> dict:
            said = super().completions(body)
            speculate(said)
            return said

    with serve(Drafts(vocabulary, "vllm")) as url:
        assert "as few as 1 of the 20 alternatives asked for, as a server with speculative" in refusal(openai(url))
    with serve(spoilt(Speaker(vocabulary, "vllm"), speculate)) as url:
        one, other = openai(url, concurrency=1, max_new_tokens=32).trace(requests(vocabulary)[:2])
    assert "speculative decoding" in one.reason
    assert isinstance(other, Trace)


def test_models_without_a_name_are_passed_over(vocabulary: Vocabulary) -> None:
    for listed in ([{"id": None}], [None], [], [{}], [{"id": 7}]):
        body = json.dumps({"data": listed}).encode()
        with serve(lambda *_, body=body: (200, body)) as url:
            assert "its /v1/models names no model" in refusal(openai(url, attempts=1))
    for body in (b'{"data": null}', b"{}", b'{"data": 3}', b"[" * 200_000, b'{"data": {"id": "m"}}'):
        with serve(lambda *_, body=body: (200, body)) as url:
            assert url in refusal(openai(url, attempts=1))


def test_llama_server_is_told_which_model(vocabulary: Vocabulary) -> None:
    """In router mode one server has several, and asks for the name in every request."""
    asked = []

    def answer(method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if path == "/v1/models":
            listed = [{"id": name, "owned_by": "llamacpp", "meta": None} for name in ("other", "m")]
            return 200, json.dumps({"data": listed}).encode()
        asked.append(json.loads(body))
        return 400, b'{"error": {"message": "model not found"}}'

    with serve(answer) as url:
        assert "model not found" in refusal(openai(url, model="m"))
        assert "give one as teacher.model" in refusal(openai(url))
    assert asked[0]["model"] == "m"


# ---- redirects


def sent_on(url: str, status: int = 307) -> Callable:
    return lambda method, path, body: (status, b"", {"Location": url + path})


def test_a_307_on_the_same_host_is_followed_and_another_one_named(vocabulary: Vocabulary) -> None:
    with serve(Speaker(vocabulary, "vllm")) as url, serve(sent_on(url)) as door:
        (trace,) = openai(door).trace(requests(vocabulary)[:1])
        assert isinstance(trace, Trace)
        elsewhere = url.replace("127.0.0.1", "localhost")
        with serve(sent_on(elsewhere.replace("://", "://me:secret@"))) as other:
            said = refusal(openai(other))
    assert f"sends its requests on to {elsewhere} (HTTP 307)" in said
    assert "secret" not in said
    with serve(lambda *_: (307, b"", {"Location": "/v1/models"})) as url:
        assert "redirects without end" in refusal(openai(url))
    with serve(lambda *_: (308, b"", {"Location": "//["})) as url:
        assert "sends its requests on to http" in refusal(openai(url))


def test_the_key_does_not_go_to_another_port(vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EKD_TEST_KEY", "sk-4711")
    seen, speaker = [], Speaker(vocabulary, "vllm")

    def listen(method: str, path: str, body: bytes, headers: Any) -> tuple[int, bytes]:
        seen.append(headers.get("Authorization"))
        return speaker(method, path, body)

    with serve(listen, headers=True) as url, serve(sent_on(url)) as door:
        list(openai(door).trace(requests(vocabulary)[:1]))
    assert set(seen) == {None}


# ---- sizes and times


def raw_server(write: Callable[[socket.socket], None]) -> tuple[str, socket.socket]:
    """Every connection gets what `write` writes, after the head of the request was read."""
    listener = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            Thread(target=speak, args=(peer,), daemon=True).start()

    def speak(peer: socket.socket) -> None:
        try:
            with peer:
                peer.recv(65536)
                write(peer)
        except OSError:
            return

    Thread(target=work, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}", listener


def endless(peer: socket.socket) -> None:
    peer.sendall(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"data": "')
    while True:
        peer.sendall(b"x" * 65536)


def dripping(peer: socket.socket) -> None:
    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while True:
        peer.sendall(b" ")
        time.sleep(0.02)


def both(url: str, **changes: Any) -> list[Any]:
    settings = {"model": "m", "tokenizer": "smollm2", "endpoints": [url], "backoff": 0.01, "attempts": 1}
    return [build(name, {**settings, **changes}) for name in ("ollama", "openai")]


def test_an_endless_body_is_not_read_to_its_end() -> None:
    url, listener = raw_server(endless)
    with listener:
        for teacher in both(url, max_new_tokens=64):
            assert "MiB, which no answer to this request needs" in refusal(teacher)


def test_a_slow_drip_does_not_outlast_the_timeout() -> None:
    url, listener = raw_server(dripping)
    with listener:
        for teacher in both(url, timeout=0.3):
            assert "did not end its answer within 0 s (teacher.timeout)" in refusal(teacher)


def test_a_compressed_answer_is_not_unpacked() -> None:
    """Ten MiB of zeros are ten KiB on the wire."""
    asked = []

    def bomb(method: str, path: str, body: bytes, headers: Any) -> tuple:
        asked.append(headers.get("Accept-Encoding"))
        return 200, gzip.compress(bytes(10 << 20)), {"Content-Encoding": "gzip"}

    with serve(bomb, headers=True) as url:
        for teacher in both(url):
            assert "sent a compressed answer, which was not asked for" in refusal(teacher)
    assert set(asked) == {"identity"}


def test_real_answers_are_far_below_the_limit() -> None:
    for whole in generations():
        tokens = whole["response"]["eval_count"]
        assert 2 * len(json.dumps(whole["response"])) < largest_answer(tokens, 20) - largest_answer(0, 20)


# ---- secrets


@pytest.mark.parametrize(
    "url", ["http://me:secret@a", "https://secret@a:1", "ftp://me:secret@a", "http://a/?key=secret"]
)
def test_credentials_in_a_url_are_refused_unseen(url: str) -> None:
    with pytest.raises(ValueError, match="has a user, a password or a query in its URL") as refused:
        Wire(endpoints=[url, url], concurrency=1, attempts=1, backoff=0, patience=0)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "word", ["teacher.endpoints=[http://me:secret@127.0.0.1:1]", "+x='https://secret@a/b'", "http://me:secret=1@a"]
)
def test_credentials_on_the_command_line_are_refused_before_anything_is_written(
    word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["ekd.trace", "teacher=openai", word, f"hydra.run.dir={tmp_path}/run"])
    with pytest.raises(SystemExit) as ended:
        door("trace", lambda config: pytest.fail("it ran"))
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert "has a URL with a user or a password in it" in said.err
    assert "secret" not in said.out + said.err
    assert not (tmp_path / "run").exists()


ECHOES: dict[str, Callable[[str], tuple[int, bytes]]] = {
    "an error": lambda key: (400, json.dumps({"error": {"message": f"wrong key Bearer {key}"}}).encode()),
    "an escaped error": lambda key: (400, f'{{"error": "\\u{ord(key[0]):04x}{key[1:]}"}}'.encode()),
    "no JSON": lambda key: (404, f"<html>{key}</html>".encode()),
    "a model": lambda key: (200, json.dumps({"data": [{"id": f"{key}-a"}, {"id": f"{key}-b"}]}).encode()),
}


@pytest.mark.parametrize("name", ECHOES)
def test_a_key_that_a_server_echoes_is_not_printed(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key = "sk-very-secret-4711"
    monkeypatch.setenv("EKD_TEST_KEY", key)
    monkeypatch.setenv("OLLAMA_API_KEY", key)
    caplog.set_level(logging.DEBUG)
    with serve(lambda *_: ECHOES[name](key)) as url:
        for teacher in (both(url)[0], openai(url, attempts=1)):
            with pytest.raises(ValueError, match="http") as refused:
                teacher.origin()
            seen: BaseException | None = refused.value
            while seen is not None:
                assert key not in str(seen)
                seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    assert key not in caplog.text


def test_a_key_in_what_a_model_says_of_itself_is_in_no_manifest(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EKD_TEST_KEY", "sk-4711")
    speaker = Speaker(vocabulary, "vllm")

    def answer(method: str, path: str, body: bytes) -> tuple[int, bytes]:
        status, content = speaker(method, path, body)
        return status, content.replace(b"org/m", b"org/sk-4711")

    with serve(answer) as url:
        assert openai(url).origin()["root"] == "org/***"


def test_reasons_are_one_printable_line() -> None:
    assert clean_line("a\n\x1b[31mb\ud800 " + "c" * 5000, None).isprintable()
    assert len(clean_line("c " * 5000, None)) < 700
    assert clean_line("Bearer k1, k1", "k1") == "Bearer ***, ***"


# ---- a script that ends while a teacher is at work


@pytest.mark.parametrize("ending", ["next(answers)", "next(answers); raise SystemExit(3)", "next(answers); 1 / 0"])
def test_a_script_that_leaves_a_trace_unfinished_ends(ending: str) -> None:
    """The thread of the network is stopped before the interpreter is: nobody could wait for it afterwards."""
    script = f"""
        import asyncio
        from contextlib import asynccontextmanager
        from ekd.teacher.wire.transport import Wire
        from ekd.types import Request

        @asynccontextmanager
        async def connect(url):
            yield url

        async def ask(client, request):
            await asyncio.sleep(0 if request.key == "0" else 60)
            return "fine", 1

        wire = Wire(endpoints=["http://a"], concurrency=2, attempts=1, backoff=0, patience=1)
        answers = wire.run((Request(str(k), "p", 0, k, [1]) for k in range(4)), connect, ask)
        {ending}
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == {"n": 0, "r": 3, "1": 1}[ending.removeprefix("next(answers); ")[0]], done.stderr


def test_a_refusal_stops_the_servers_at_once(vocabulary: Vocabulary) -> None:
    """While its error is still held, as a script or a notebook does, no thread goes on."""
    import threading

    replay = Replay(generations(), exchanges().values())
    asked = [Request(str(n), "p", 0, n, vocabulary.spell("not recorded")) for n in range(20)]
    with serve(replay) as url:
        teacher = build("ollama", {"model": "smollm2", "tokenizer": "smollm2", "endpoints": [url], "backoff": 0.01})
        with pytest.raises(ValueError, match="the first 8 requests all failed") as held:
            list(teacher.trace(asked))
    assert held.value.__traceback__ is not None
    assert not [t for t in threading.enumerate() if t.name == "ekd-wire"]
