"""Servers for the tests of teachers over the wire: recorded Ollama, a proxy that breaks things, real llama.cpp."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from hydra.utils import instantiate
from omegaconf import OmegaConf

FIXTURES = Path(__file__).parent / "fixtures"
SHARED = Path(__file__).parents[2] / "shared"


def recorded(path: Path) -> list[dict]:
    return [json.loads(line) for line in gzip.open(path, "rt")]


def generations(path: Path = FIXTURES / "ollama_generations.jsonl.gz") -> list[dict]:
    """Whole answers to GSM8K questions: id, question, request, response."""
    return recorded(path)


def exchanges(*names: str, folder: Path = FIXTURES) -> dict[str, dict]:
    """Recorded requests and responses by name."""
    files = [folder / f"{name}.jsonl.gz" for name in names] or sorted(folder.glob("ollama_exchanges.jsonl.gz"))
    return {pair["name"]: pair for file in files for pair in recorded(file)}


class Replay:
    """Ollama as recorded. An unknown request is a 404; `asked` keeps every body."""

    def __init__(self, whole: Iterable[dict] = (), pairs: Iterable[dict] = ()) -> None:
        self.asked: list[dict] = []
        self.whole = {(w["request"]["prompt"], w["request"]["options"]["seed"]): w["response"] for w in whole}
        self.pairs = list(pairs)

    def __call__(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if method == "POST":
            self.asked.append(json.loads(body))
        if path == "/api/generate":
            return self._generate(json.loads(body))
        return next(
            (_recorded(p) for p in self.pairs if (p["request"]["method"], p["request"]["path"]) == (method, path)),
            (404, b"404 page not found"),
        )

    def _generate(self, body: dict) -> tuple[int, bytes]:
        whole = self.whole.get((body["prompt"], body["options"].get("seed")))
        if whole is not None:
            return 200, _streamed(whole) if body.get("stream", True) else json.dumps(whole).encode()
        fitting = [(_likeness(p, body), p) for p in self.pairs if _same(p, body)]
        if not fitting:
            return 404, json.dumps({"error": f"not recorded: {body['prompt'][:60]!r}"}).encode()
        return _recorded(max(fitting, key=lambda f: f[0])[1])


def _same(pair: dict, body: dict) -> bool:
    said = _said(pair)
    if pair["request"]["path"] != "/api/generate" or "prompt" not in said or not pair["response_head"]:
        return False
    options, wanted = said.get("options", {}), body["options"]
    return (
        (said["prompt"], said.get("model"), said.get("stream", True), options.get("num_predict"), said.get("format"))
        == (body["prompt"], body["model"], body.get("stream", True), wanted["num_predict"], body.get("format"))
    )  # fmt: skip


def _likeness(pair: dict, body: dict) -> int:
    said = _said(pair)
    same = sum(said.get("options", {}).get(k) == v for k, v in body["options"].items())
    return (
        same + sum(said.get(k) == body.get(k) for k in ("logprobs", "top_logprobs", "truncate", "shift", "think")) * 10
    )


def _said(pair: dict) -> dict:
    try:
        said = json.loads(pair["request"]["body_raw"] or "{}")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _recorded(pair: dict) -> tuple[int, bytes]:
    return int(pair["response_head"].split()[1]), pair["response_body"].encode()


def _streamed(whole: dict) -> bytes:
    """A whole answer as the stream that Ollama makes of it: an entry a line, then a last line without."""
    lines = [
        {"model": whole["model"], "response": entry["token"], "done": False, "logprobs": [entry]}
        for entry in whole["logprobs"]
    ]
    last = {k: v for k, v in whole.items() if k not in ("logprobs", "response")}
    return b"".join(json.dumps(line).encode() + b"\n" for line in [*lines, {**last, "response": ""}])


@contextmanager
def serve(answer, port: int = 0, headers: bool = False) -> Iterator[str]:
    """answer(method, path, body) -> (status, body[, headers]); headers: it is given those of the request too."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen = [self.headers] if headers else []
            status, content, *more = answer(self.command, self.path, body, *seen)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **(more[0] if more else {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_HEAD = handle_any

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def build(name: str, changes: dict):
    """conf/teacher/<name>.yaml with changes, as the doors build it."""
    config = OmegaConf.load(Path(__file__).parents[1] / "conf" / "teacher" / f"{name}.yaml")
    return instantiate(OmegaConf.merge(config, changes), _convert_="all")


@contextmanager
def llama_server(model: str = "smollm2", *options: str) -> Iterator[str]:
    """Real llama.cpp in a process of its own; one thread, because its threads spin."""
    script = Path(__file__).parents[1] / "scripts" / "serve_gguf.py"
    command = [sys.executable, str(script), model, "--port", "0", "--threads", "1", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
