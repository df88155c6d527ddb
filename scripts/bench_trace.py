"""How much ekd costs beside the servers it asks. `python scripts/bench_trace.py`

1. Against a server that answers at once (recorded answers, in a process of its own): tokens that one core requests,
   parses, maps to ids, makes rows of and stores, for each second of CPU time; and what bounds it.
2. Against one real llama-server (xllamacpp, SmolLM2): ekd's tokens a second over those of a bare load generator, which
   sends the same requests at the same concurrency and throws the answers away. Rounds alternate; medians of ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ekd.store.store import Store
from ekd.teacher.wire.dialect import WireSampling
from ekd.teacher.wire.llama import Llama
from ekd.teacher.wire.vocabulary import vocabulary_of
from ekd.types import Failure, Request, Trace

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "tests" / "fixtures" / "ollama_generations.jsonl.gz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=5, help="of each kind")
    parser.add_argument("--requests", type=int, default=12, help="to the real server, a round")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer of the real server")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1, help="of the real server")
    chosen = parser.parse_args()
    if chosen.serve:
        serve_at_once()
    at_once(chosen.rounds)
    beside_a_bare_client(chosen)


# ---- 1. a server that answers at once


def answers() -> list[dict[str, Any]]:
    with gzip.open(RECORDED, "rt") as lines:
        return [json.loads(line) for line in lines]


def as_llama(said: dict[str, Any]) -> dict[str, Any]:
    """A recorded answer as llama-server would have given it; alternatives without a sure id get any free one."""
    vocabulary = vocabulary_of("smollm2")
    clear = {spelling: i for spelling, i in vocabulary.id_of.items() if spelling not in vocabulary.ambiguous}
    entries = []
    for entry in said["logprobs"]:
        own = vocabulary.id_of[entry["token"].encode()]
        top = [{**t, "id": clear.get(t["token"].encode(), 40_000 + n)} for n, t in enumerate(entry["top_logprobs"])]
        top = [{**t, "id": own} if t["logprob"] == entry["logprob"] else t for t in top]
        entries.append({**entry, "id": own, "top_logprobs": top})
    ids = [entry["id"] for entry in entries]
    return {"tokens": ids, "content": said["response"], "stop_type": "limit", "completion_probabilities": entries}


def serve_at_once() -> None:
    whole = {w["request"]["prompt"]: json.dumps(w["response"]).encode() for w in answers()}
    by_ids = {tuple(ids_of(w)): json.dumps(as_llama(w["response"])).encode() for w in answers()}
    probe = {"response": " Paris", "done": True, "done_reason": "length", "prompt_eval_count": 5, "eval_count": 1}
    probe["logprobs"] = answers()[0]["response"]["logprobs"][:1]
    first = next(iter(by_ids.values()))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/completion":
                self.say(by_ids.get(tuple(body["prompt"]), first))
            else:
                self.say(whole.get(body["prompt"], json.dumps(probe).encode()))

        def do_GET(self) -> None:
            models = [{"model": "m:latest", "digest": "d" * 12}]
            self.say(json.dumps({"models": models, "data": [{"id": "m", "owned_by": "llamacpp"}]}).encode())

        def say(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


def ids_of(whole: dict[str, Any]) -> list[int]:
    return vocabulary_of("smollm2").tokenizer(whole["request"]["prompt"], add_special_tokens=False)["input_ids"]


def at_once(rounds: int) -> None:
    asked = [Request(f"{w['id']}-{n}", w["id"], n, n, ids_of(w)) for w in answers() for n in range(10)]
    with process(__file__, "--serve") as url:
        for name, model in (("ollama", "m"), ("openai", None)):
            teacher = build(name, url, model=model, max_new_tokens=256)
            teacher.origin()  # the greeting is not counted
            rates = [rate(teacher, asked) for _ in range(rounds)]
            tokens, cpu, wall = (statistics.median(column) for column in zip(*rates, strict=True))
            print(
                f"{name}: {tokens / cpu:,.0f} tokens a second of CPU time (request, parse, map, rows, store), "
                f"{tokens / wall:,.0f} of wall time; {1e6 * cpu / tokens:.0f} us a token",
                flush=True,
            )


def rate(teacher: Any, asked: list[Request]) -> tuple[int, float, float]:
    """Tokens, seconds of CPU time of this process, seconds of wall time."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(folder, {"vocab": 49152})
        cpu, wall = time.process_time(), time.perf_counter()
        traces = [finished(answer) for answer in teacher.trace(asked)]
        store.append(traces)
        return tokens_of(traces), time.process_time() - cpu, time.perf_counter() - wall


# ---- 2. beside a bare client, against real llama.cpp


def beside_a_bare_client(chosen: argparse.Namespace) -> None:
    prompts = [ids_of(w) for w in answers()]
    asked = [Request(str(n), str(n), 0, n, prompts[n % len(prompts)]) for n in range(chosen.requests)]
    options = ["--port", "0", "--threads", str(chosen.threads), "--parallel", str(chosen.concurrency)]
    with process(str(ROOT / "scripts" / "serve_gguf.py"), "smollm2", *options) as url:
        teacher = build("openai", url, concurrency=chosen.concurrency, max_new_tokens=chosen.tokens)
        teacher.origin()
        bodies = asyncio.run(bodies_of(asked, chosen.tokens))
        asyncio.run(bare(url, bodies, chosen.concurrency))  # fills the prompt cache for both
        ratios = []
        for n in range(chosen.rounds):
            ours, theirs = 0.0, 0.0
            for kind in ("ekd", "bare") if n % 2 else ("bare", "ekd"):
                if kind == "bare":
                    theirs = asyncio.run(bare(url, bodies, chosen.concurrency))
                else:
                    tokens, _, wall = rate(teacher, asked)
                    ours = tokens / wall
            ratios.append(ours / theirs)
            print(f"round {n}: ekd {ours:.1f} tokens/s, bare {theirs:.1f}, ratio {ratios[-1]:.3f}", flush=True)
    print(f"ekd over a bare load generator: median ratio {statistics.median(ratios):.3f} of {len(ratios)} rounds")


async def bodies_of(asked: list[Request], tokens: int) -> list[dict[str, Any]]:
    """The very bodies that ekd sends."""
    bodies: list[dict[str, Any]] = []

    async def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
        bodies.append(body)
        return {"tokens": [], "content": "", "stop_type": "limit"}

    dialect = Llama(model="m", vocabulary=vocabulary_of("smollm2"))
    for request in asked:
        await dialect.generate(post, request, WireSampling(0.7, 1.0, tokens, 20))
    return bodies


async def bare(url: str, bodies: list[dict[str, Any]], concurrency: int) -> float:
    """Tokens a second of a client that looks at nothing."""
    waiting = iter(bodies)
    contents: list[bytes] = []
    async with httpx.AsyncClient(timeout=None) as client:

        async def work() -> None:
            for body in waiting:
                contents.append((await client.post(f"{url}/completion", json=body)).content)

        start = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(concurrency)))
        seconds = time.perf_counter() - start
    return sum(len(json.loads(content)["tokens"]) for content in contents) / seconds


# ---- what both need


def build(name: str, url: str, **changes: Any) -> Any:
    config = OmegaConf.load(ROOT / "conf" / "teacher" / f"{name}.yaml")
    return instantiate(
        OmegaConf.merge(config, {"tokenizer": "smollm2", "endpoints": [url], **changes}), _convert_="all"
    )


def finished(answer: Trace | Failure) -> Trace:
    if isinstance(answer, Failure):
        raise SystemExit(f"a request failed: {answer.reason}")
    return answer


def tokens_of(traces: list[Trace]) -> int:
    return sum(len(trace.response_ids) for trace in traces)


@contextmanager
def process(*words: str) -> Iterator[str]:
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
