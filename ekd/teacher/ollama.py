"""An Ollama server as the teacher: it generates solutions, and names its 20 most likely tokens at each place.

Ollama gives no token ids, destroys halves of characters, and never shows the end token; `matching` makes rows of what
is certain and unmatched rows of the rest. The numbered facts about the server are in docs/teachers.md.
"""

from __future__ import annotations

import warnings
from asyncio import wait_for
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import httpx
import ollama

from ekd.teacher.rows import bare_trace
from ekd.teacher.wire.bounded import largest_answer
from ekd.teacher.wire.dialect import check_alternatives
from ekd.teacher.wire.faults import Refused, Unfit, clean_line
from ekd.teacher.wire.matching import align_entries, nameless_end, vet
from ekd.teacher.wire.ollama_server import (
    KnownModel,
    OllamaAnswer,
    OllamaServer,
    Strict,
    check_answer,
    check_whole,
    clear_ollama_errors,
    entry_of,
    joined,
    pull,
)
from ekd.teacher.wire.ollama_text import as_generated, said_of, same_tokens, tokens_of
from ekd.teacher.wire.remote import Remote
from ekd.teacher.wire.rows import Row, wire_trace
from ekd.translate.bridge import Bridge
from ekd.types import Failure, Request, Trace

TOP = 20  # the most that Ollama gives
FIRST_WITH_LOGPROBS = "0.12.11"
PROBE = "The capital of France is"
HINT = "start it with `ollama serve`, or give teacher.endpoints=[URL,...]"


@dataclass(frozen=True, kw_only=True)
class Ollama(Remote):
    """Prompts are sent raw, so that the chat template is the student tokenizer's own and both sides see the same ids.
    A teacher whose tokenizer is another and not known is asked in messages, and its rows are translated.

    Entropies are midpoints of bounds (20 of V logprobs are known); the end token of an answer is an unmatched row
    unless `end_row` asks for it. Every argument: see conf/teacher/ollama.yaml.
    """

    model: str
    num_ctx: int
    end_row: bool
    stream: bool
    pull: bool
    greeted: dict[str, KnownModel] = field(default_factory=dict, init=False, repr=False)  # by URL

    def __post_init__(self) -> None:
        if self.mode != "generate":
            raise ValueError(
                f"teacher.mode={self.mode} is not possible: teacher=ollama can only generate; to score given "
                "solutions use teacher=hf, or teacher=openai with llama-server, vLLM or SGLang"
            )
        if self.num_ctx < 256:
            raise ValueError(f"teacher.num_ctx is 256 or more (Ollama turns less into 256), not {self.num_ctx}")
        if not 1 <= self.max_new_tokens < self.num_ctx:
            raise ValueError(
                f"teacher.max_new_tokens is from 1 to num_ctx - 1 = {self.num_ctx - 1}, not {self.max_new_tokens}"
            )
        super().__post_init__()

    @property
    def key_name(self) -> str:
        """Read by the ollama client itself."""
        return "OLLAMA_API_KEY"

    @cached_property
    def digest(self) -> str:
        """Of the model, from the first endpoint that answers."""
        return self.greeted[self.wire.find(self._connect, self.discreet(self._greet), HINT).url].digest

    @property
    def speaks_text(self) -> bool:
        """Whether nothing is known of its tokens but what they spell."""
        return self.bridge is not None and self.bridge.teacher is None

    def foreign(self) -> bool:
        """By the server's list of tokens, where it gives one, else by how many it reads a prompt as."""
        found: dict[str, bool] = {}

        async def look(server: OllamaServer) -> None:
            _, first = await self._meet(server)
            tokens = await wait_for(tokens_of(server.client, self.model), self.timeout)
            own = self.vocabulary.tokenizer
            found[server.url] = self._miscounts(first) if tokens is None else not same_tokens(tokens, own)

        return found[self.wire.find(self._connect, self.discreet(look), HINT).url]

    def bridged(self, bridge: Bridge) -> Ollama:
        if bridge.teacher is None and self.end_row:
            raise ValueError(
                "teacher.end_row=true asks with a raw prompt, and of this teacher no template is known: give "
                "teacher.own_tokenizer=MODEL (a hub name or folder with its tokenizer), or teacher.end_row=false"
            )
        return super().bridged(bridge)

    def origin(self) -> dict[str, Any]:
        decide = ("model", "temperature", "top_p", "max_new_tokens", "num_ctx", "end_row")
        return {"type": "ollama", "digest": self.digest, "top": TOP, **{name: vars(self)[name] for name in decide}}

    def trace(self, requests: Iterable[Request]) -> Iterator[Trace | Failure]:
        """Traces come in the order in which the servers finish them; a request that finally failed is a Failure."""
        if self.digest:  # asked first: a server that cannot be a teacher is refused before any work
            # closed at once when it is refused, so that no server goes on generating
            with closing(self.wire.run(requests, self._connect, self.discreet(self._ask))) as answers:
                limit = 1.0 if self.speaks_text else self.max_unmatched  # there, tokens are not expected to match
                yield from self.back(vet((self._match(request, answer) for request, answer in answers), limit))

    @asynccontextmanager
    async def _connect(self, url: str) -> AsyncIterator[OllamaServer]:
        timeout = httpx.Timeout(self.timeout, connect=10.0)
        transport = Strict(self.concurrency, largest_answer(self.max_new_tokens, TOP))
        async with ollama.AsyncClient(url, timeout=timeout, transport=transport) as client:
            yield OllamaServer(url, client)

    async def _greet(self, server: OllamaServer) -> None:
        """Learns what decides everything later; raises ValueError where this server cannot be the teacher."""
        digest, first = await self._meet(server)
        adds_bos = False
        if not self.speaks_text:
            own, told = len(self.vocabulary.spell(PROBE)), first.prompt_eval_count
            adds_bos = told == own + 1 and self.vocabulary.tokenizer.bos_token is not None
            if self._miscounts(first):
                raise Unfit(
                    f"{server.url} cannot be the teacher: it reads {PROBE!r} as {told} tokens, the student's tokenizer "
                    f"as {own}: their tokenizers differ; choose a student of the teacher's family, or give "
                    "teacher.align=bytes, which translates"
                )
        self.greeted[server.url] = KnownModel(clean_line(digest, self.secret), adds_bos)

    async def _meet(self, server: OllamaServer) -> tuple[str, ollama.GenerateResponse]:
        """The model's digest, and what it says to PROBE."""
        async with clear_ollama_errors(server.url, self.timeout):
            digest = await wait_for(self._digest(server), self.timeout)
            if digest is None and self.pull:
                await pull(server.client, self.model)
                digest = await wait_for(self._digest(server), self.timeout)
            if digest is None:
                raise Unfit(
                    f"{server.url} has no model {self.model!r}: `ollama pull {self.model}` there, or teacher.pull=true"
                )
            options = {"num_predict": 1, "temperature": 0, "num_ctx": self.num_ctx, "stop": []}
            asked = server.client.generate(
                self.model, PROBE, raw=True, logprobs=True, top_logprobs=TOP, options=options
            )
            first = await wait_for(asked, self.timeout)
        if first.logprobs is None:
            raise Unfit(
                f"the Ollama at {server.url} gives no logprobs: it is older than {FIRST_WITH_LOGPROBS}. Update it "
                "(https://ollama.com/download), then the same command goes on"
            )
        check_alternatives([len(entry.top_logprobs or ()) for entry in first.logprobs], TOP)
        return digest, first

    def _miscounts(self, first: ollama.GenerateResponse) -> bool:
        """More than a BOS token or a word mark explains; the first real prompt has to fit exactly."""
        told = first.prompt_eval_count
        return told is not None and abs(told - len(self.vocabulary.spell(PROBE))) > 2

    async def _digest(self, server: OllamaServer) -> str | None:
        name = self.model if ":" in self.model.rpartition("/")[2] else f"{self.model}:latest"
        return next((m.digest for m in (await server.client.list()).models if m.model == name), None)

    async def _ask(self, server: OllamaServer, request: Request) -> tuple[OllamaAnswer, int]:
        async with server.lock:
            if server.url not in self.greeted:  # it was away until now
                await self._greet(server)
        digest = self.greeted[server.url].digest
        if digest != self.digest:
            raise Unfit(
                f"{server.url} holds another {self.model} than the other endpoints (digest {digest[:12]}, "
                f"not {self.digest[:12]}): pull the same one there, or leave it out of teacher.endpoints"
            )
        if self.speaks_text:
            said = await self._chat(server, request)
            check_whole(said, self.max_new_tokens, TOP)
            return OllamaAnswer(server.url, said, None), said.eval_count or 0
        prompt = self._prompt(server, request)
        said = await self._generate(server, prompt, request.seed, self.max_new_tokens)
        with self.counting(server.url):
            check_answer(said, request, self.max_new_tokens, TOP)
        end = None
        if self.end_row and said.done_reason == "stop":
            end = await self._generate(
                server, prompt + (said.response or ""), request.seed, 1, format={"type": "string"}
            )
        return OllamaAnswer(server.url, said, end), said.eval_count or 0

    def _prompt(self, server: OllamaServer, request: Request) -> str:
        if len(request.prompt_ids) >= self.num_ctx:
            raise Refused(
                f"teacher.num_ctx={self.num_ctx} leaves no room for an answer to this prompt of "
                f"{len(request.prompt_ids)} tokens; give a larger one"
            )
        own_bos = self.greeted[server.url].adds_bos and request.prompt_ids[0] == self.vocabulary.tokenizer.bos_token_id
        return self.vocabulary.prompt(request.prompt_ids[1:] if own_bos else request.prompt_ids)

    async def _generate(
        self, server: OllamaServer, prompt: str, seed: int, tokens: int, **more: Any
    ) -> ollama.GenerateResponse:
        options = self._options(seed, tokens)
        call = {"raw": True, "logprobs": True, "top_logprobs": TOP, "options": options, **more}
        async with clear_ollama_errors(server.url, self.timeout):
            if not self.stream:
                return await wait_for(server.client.generate(self.model, prompt, **call), self.timeout)
            return joined(await wait_for(self._stream(server, prompt, call), self.timeout))

    async def _chat(self, server: OllamaServer, request: Request) -> ollama.GenerateResponse:
        """The server renders the messages itself, by the template of its model."""
        options = self._options(request.seed, self.max_new_tokens)
        call: dict[str, Any] = {"logprobs": True, "top_logprobs": TOP, "options": options}
        async with clear_ollama_errors(server.url, self.timeout):
            if not self.stream:
                said = await wait_for(server.client.chat(self.model, request.messages, **call), self.timeout)
                return as_generated(said)
            parts = await wait_for(self._chat_stream(server, request, call), self.timeout)
            return joined([as_generated(part) for part in parts])

    async def _chat_stream(
        self, server: OllamaServer, request: Request, call: dict[str, Any]
    ) -> list[ollama.ChatResponse]:
        return [part async for part in await server.client.chat(self.model, request.messages, stream=True, **call)]

    def _options(self, seed: int, tokens: int) -> dict[str, Any]:
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "repeat_penalty": 1.0,
            "seed": seed % 2**31,
            "num_predict": tokens,
            "num_ctx": self.num_ctx,
            "stop": [],  # a stop string would merge tokens
        }

    async def _stream(self, server: OllamaServer, prompt: str, call: dict[str, Any]) -> list[ollama.GenerateResponse]:
        return [part async for part in await server.client.generate(self.model, prompt, stream=True, **call)]

    def _match(self, request: Request, answer: OllamaAnswer | Failure) -> Trace | Failure:
        if isinstance(answer, Failure):
            return answer
        self._warn_of_cut(answer.said, answer.said.prompt_eval_count or len(request.prompt_ids))
        try:
            if self.speaks_text and self.bridge is not None:
                about = bare_trace(request, [], str(answer.said.done_reason))
                return self.bridge.of_texts(about, said_of(answer.said))
            ids, rows = self._rows(answer.said, answer.end)
            return wire_trace(request, ids, rows, str(answer.said.done_reason), self.vocabulary.size)
        except ValueError as error:
            reason = clean_line(f"{answer.url}: {error}", self.secret)
            return Failure(request.key, request.problem_id, reason)

    def _warn_of_cut(self, said: ollama.GenerateResponse, prompt: int) -> None:
        made = said.eval_count or self.max_new_tokens
        if said.done_reason == "length" and made < self.max_new_tokens:
            warnings.warn(
                f"an answer was cut after {made} of teacher.max_new_tokens={self.max_new_tokens} tokens, because with "
                f"its prompt of {prompt} tokens the context was full: give more than teacher.num_ctx={self.num_ctx} "
                "(or, where the model itself holds no more, fewer max_new_tokens)",
                stacklevel=2,
            )

    def _rows(
        self, said: ollama.GenerateResponse, end: ollama.GenerateResponse | None
    ) -> tuple[list[int], list[Row | None]]:
        stopped = said.done_reason == "stop"
        entries = [entry_of(e) for e in said.logprobs or ()]
        tokens = None if said.eval_count is None else said.eval_count - stopped
        ids, rows = align_entries(entries, said.response or "", tokens, self.vocabulary)
        if stopped:
            top = entry_of(end.logprobs[0]).top if end is not None and end.logprobs else []
            ids.append(self.vocabulary.end)
            rows.append(nameless_end(top, self.vocabulary))
        if not ids:
            raise ValueError("the answer does not hold one whole character; give a larger teacher.max_new_tokens")
        return ids, rows
