"""Any OpenAI-style server as the teacher: llama-server, vLLM, SGLang, or a hosted one.

The client is httpx and not the `openai` package: llama-server and SGLang give ids only at paths of their own, vLLM by
fields that OpenAI does not know; retries are counted here (the package has some of its own); an answer of 1,000 tokens
is 21,000 objects to the package and one json.loads here; and httpx is installed with the ollama client anyway.
"""

from __future__ import annotations

import asyncio
import json
from asyncio import wait_for
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import httpx

from ekd.teacher.wire.bounded import Bounded, largest_answer
from ekd.teacher.wire.dialect import Dialect, Solved, WireSampling, check_alternatives, check_size
from ekd.teacher.wire.faults import Fault, Refused, Unavailable, Unfit, clean_line, clear_faults, retry_after
from ekd.teacher.wire.llama import Llama
from ekd.teacher.wire.matching import vet
from ekd.teacher.wire.remote import Remote
from ekd.teacher.wire.rows import Row, wire_trace
from ekd.teacher.wire.sglang import SGLang
from ekd.teacher.wire.text import TextDialect
from ekd.teacher.wire.vllm import VLLM
from ekd.translate.bridge import Bridge
from ekd.types import Failure, Request, Trace

DIALECTS: dict[str, Any] = {"llama": Llama, "vllm": VLLM, "sglang": SGLang, "text": TextDialect}
OWNERS = {"llamacpp": "llama", "vllm": "vllm", "sglang": "sglang"}  # `owned_by` in /v1/models
LONGEST = 32768  # tokens of a prompt and a given response
STRANGE = (KeyError, TypeError, IndexError, AttributeError, ValueError, ArithmeticError)  # an answer of another form
PROBE = "The capital of France is"


@dataclass(frozen=True, kw_only=True)
class OpenAI(Remote):
    """Entropies are midpoints of bounds: `top` of V logprobs are known. Arguments: see conf/teacher/openai.yaml."""

    model: str | None
    server: str
    api_key_env: str | None
    top: int
    greeted: dict[str, KnownDialect] = field(default_factory=dict, init=False, repr=False)  # by URL

    def __post_init__(self) -> None:
        if self.mode not in ("generate", "score"):
            raise ValueError(f"teacher.mode is generate or score, not {self.mode!r}")
        if self.server not in ("auto", *DIALECTS):
            raise ValueError(f"teacher.server is auto, {', '.join(DIALECTS)}, not {self.server!r}")
        if self.mode == "score" and self.server == "text":
            raise ValueError(
                "teacher.server=text cannot score given solutions: use llama, vllm or sglang, or teacher=hf"
            )
        if self.top < 1 or self.max_new_tokens < 1:
            raise ValueError(
                f"teacher.top and teacher.max_new_tokens are 1 or more, not {self.top} and {self.max_new_tokens}"
            )
        super().__post_init__()

    @property
    def key_name(self) -> str | None:
        return self.api_key_env

    @cached_property
    def sampling(self) -> WireSampling:
        return WireSampling(self.temperature, self.top_p, self.max_new_tokens, self.top)

    @cached_property
    def served(self) -> dict[str, Any]:
        """What serves the teacher and what it says of the model, from the first endpoint that answers."""
        hint = "start the server, or give teacher.endpoints=[URL,...]"
        return self.greeted[self.wire.find(self._connect, self.discreet(self._greet), hint).url].served

    def origin(self) -> dict[str, Any]:
        decide = ["mode", "top"] + ["temperature", "top_p", "max_new_tokens"] * (self.mode == "generate")
        return {"type": "openai", **self.served, **{name: vars(self)[name] for name in decide}}

    def foreign(self) -> bool:
        """Servers of this kind do not tell; one whose tokens are not the student's is noticed and refused."""
        return False

    def bridged(self, bridge: Bridge) -> OpenAI:
        if bridge.teacher is None:
            raise ValueError(
                "teacher.align=bytes needs to know how the teacher reads: give teacher.own_tokenizer=MODEL, the hub "
                "name or folder of the model that is served"
            )
        return super().bridged(bridge)

    def trace(self, requests: Iterable[Request]) -> Iterator[Trace | Failure]:
        """Traces come in the order in which the servers finish them; a request that finally failed is a Failure."""
        if self.served:  # asked first: a server that cannot be a teacher is refused before any work
            # closed at once when it is refused, so that no server goes on generating
            requests, failed = self.over(requests)
            yield from failed
            with closing(self.wire.run(requests, self._connect, self.discreet(self._ask))) as answers:
                traces = vet((self._trace(request, answer) for request, answer in answers), self.max_unmatched)
                yield from self.back(traces)

    @asynccontextmanager
    async def _connect(self, url: str) -> AsyncIterator[OpenAIServer]:
        longest = self.max_new_tokens if self.mode == "generate" else LONGEST
        async with httpx.AsyncClient(
            base_url=url.rstrip("/").removesuffix("/v1"),
            headers={"Authorization": f"Bearer {self.secret}"} if self.secret else {},
            timeout=httpx.Timeout(self.timeout, connect=10.0),
            transport=Bounded(self.concurrency, largest_answer(longest, self.top)),
        ) as client:
            yield OpenAIServer(url, client, self.timeout)

    async def _greet(self, server: OpenAIServer) -> None:
        """Finds out what the server is and tries what will be asked; raises Unfit with the way out."""
        try:
            listed = (await server.call("GET", "/v1/models"))["data"]
            entry = self._pick([e for e in listed if isinstance(e, dict) and isinstance(e.get("id"), str)])
            kind = self.server if self.server != "auto" else self._kind(server.url, entry)
            dialect = DIALECTS[kind](model=entry["id"], vocabulary=self.vocabulary)
            await self._try(server, dialect)
        except (Refused, *STRANGE) as error:
            if isinstance(error, Unfit):
                raise
            reason = str(error) if isinstance(error, Refused) else "its answers are not of the OpenAI kind"
            raise Unfit(f"{server.url} cannot be the teacher: {reason}") from error
        told = {name: entry[name] for name in ("root", "meta") if entry.get(name)}
        served = {"server": kind, "model": entry["id"].rpartition("/")[2], **told}
        plain = json.dumps(served)
        self.greeted[server.url] = KnownDialect(
            dialect, json.loads(plain.replace(self.secret, "***") if self.secret else plain)
        )

    def _pick(self, listed: list[dict[str, Any]]) -> dict[str, Any]:
        names = [entry["id"] for entry in listed]
        if not names:
            raise Refused("its /v1/models names no model")
        if self.model is None and len(listed) == 1:
            return listed[0]
        if self.model in names:
            return listed[names.index(self.model)]
        raise Refused(f"it serves {', '.join(names[:20])}; give one as teacher.model, not {self.model}")

    def _kind(self, url: str, entry: dict[str, Any]) -> str:
        if entry.get("owned_by") == "library":
            raise Refused("it is an Ollama server, which gives no logprobs here; use teacher=ollama")
        return OWNERS.get(str(entry.get("owned_by")), "text")

    async def _try(self, server: OpenAIServer, dialect: Dialect) -> None:
        """A few tokens as they will be asked for. The logprobs must not depend on how tokens are sampled."""
        prompt = self.vocabulary.spell(PROBE)
        if self.mode == "score":
            given = Request("probe", "probe", 0, 0, prompt[:2], [*prompt[2:], self.vocabulary.end])
            self._check_any((await dialect.score(server.post, given, self.top)).rows)
            return
        asked = Request("probe", "probe", 0, 0, prompt)
        sampling = self.sampling._replace(max_new_tokens=8)
        first = await dialect.generate(server.post, asked, sampling)
        check_size(len(first.ids), sampling.max_new_tokens)
        self._check_any(first.rows)
        plain = await dialect.generate(server.post, asked, sampling._replace(temperature=1.0, top_p=1.0))
        if first.rows[0] and plain.rows[0] and abs(_highest(first.rows[0]) - _highest(plain.rows[0])) > 0.05:
            raise Refused(
                f"its logprobs change with the temperature ({self.temperature}), so they are not the teacher's own: "
                "give teacher.temperature=1 teacher.top_p=1, or start SGLang with SGLANG_RETURN_ORIGINAL_LOGPROB=1, "
                "vLLM with --logprobs-mode raw_logprobs"
            )

    def _check_any(self, rows: list[Row | None]) -> None:
        if not any(rows):
            check_alternatives([0], self.top)

    async def _ask(self, server: OpenAIServer, request: Request) -> tuple[OpenAIAnswer, int]:
        async with server.lock:
            if server.url not in self.greeted:  # it was away until now
                await self._greet(server)
        dialect, served = self.greeted[server.url]
        if served != self.served:
            raise Unfit(
                f"{server.url} serves {served}, the other endpoints {self.served}: let all serve the same, or leave it "
                "out of teacher.endpoints"
            )
        try:
            if self.mode == "score":
                solved = await dialect.score(server.post, request, self.top)
            else:
                with self.counting(server.url):
                    solved = await dialect.generate(server.post, request, self.sampling)
                check_size(len(solved.ids), self.max_new_tokens)
        except Unfit:
            raise
        except STRANGE as error:
            raise Fault(f"{server.url} answered in an unknown form ({type(error).__name__}: {error})") from error
        return OpenAIAnswer(server.url, solved), len(solved.ids)

    def _trace(self, request: Request, answer: OpenAIAnswer | Failure) -> Trace | Failure:
        if isinstance(answer, Failure):
            return answer
        url, solved = answer
        try:
            return wire_trace(request, solved.ids, solved.rows, solved.finish, self.vocabulary.size)
        except (ValueError, TypeError) as error:
            reason = clean_line(f"{url} gave an answer that is none: {error}", self.secret)
            return Failure(request.key, request.problem_id, reason)


class OpenAIAnswer(NamedTuple):
    url: str
    solved: Solved


class KnownDialect(NamedTuple):
    """What is learnt of a server before it works."""

    dialect: Dialect
    served: dict[str, Any]


@dataclass
class OpenAIServer:
    url: str
    client: httpx.AsyncClient
    timeout: float
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self.call("POST", path, body)

    async def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        async with clear_faults(self.url, self.timeout):
            response = await wait_for(self.client.request(method, path, json=body), self.timeout)
        if response.status_code in (429, 503):
            raise Unavailable(f"{self.url} is busy (HTTP {response.status_code})", retry_after(response))
        if response.status_code in (401, 403):
            raise Unfit(
                f"{self.url} wants a key (HTTP {response.status_code}): export it, and give teacher.api_key_env"
            )
        if response.status_code >= 400:
            reason = f"{self.url} says: {_reason(response)}"
            raise Refused(reason) if response.status_code < 500 and response.status_code != 408 else Fault(reason)
        try:
            said = json.loads(response.content)
        except ValueError as error:
            raise Fault(f"{self.url} sent something that is not JSON") from error
        except RecursionError as error:
            raise Refused(f"{self.url} sent JSON that is nested too deeply to be an answer") from error
        if not isinstance(said, dict):
            raise Fault(f"{self.url} answered in an unknown form")
        return said


def _reason(response: httpx.Response) -> str:
    try:
        said = response.json()
        return str(said["error"]["message"] if isinstance(said["error"], dict) else said["error"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return f"HTTP {response.status_code} {response.text[:200]}".strip()


def _highest(row: Row) -> float:
    return max(row.logprobs)
