"""What one Ollama server says and how it fails. Used by teacher/ollama.py alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx
import ollama
from rich.progress import Progress

from ekd.teacher.wire.bounded import Bounded
from ekd.teacher.wire.dialect import check_alternatives, check_prompt, check_size
from ekd.teacher.wire.faults import Fault, Refused, Unavailable, Unfit, clear_faults, retry_after
from ekd.teacher.wire.matching import Entry
from ekd.types import Request

WHOLE = {"truncate": False, "shift": False, "think": False}
ADDED = {"/api/generate": WHOLE, "/api/chat": WHOLE, "/api/show": {"verbose": True}}
VOCABULARY = 64 << 20  # bytes that a list of all tokens needs at the most
REPEATS = 30  # equal tokens in a row after which Ollama aborts without a word


class OllamaAnswer(NamedTuple):
    url: str
    said: ollama.GenerateResponse
    end: ollama.GenerateResponse | None  # the forced entry at the end token's place


class KnownModel(NamedTuple):
    """What is learnt of a server before it works."""

    digest: str  # of the model
    adds_bos: bool  # it puts the BOS token in front of a raw prompt


@dataclass
class OllamaServer:
    url: str
    client: ollama.AsyncClient
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Strict(Bounded):
    """Adds what the client's calls have no argument for (0.6.3), and keeps Retry-After, which it drops.

    truncate and shift: a prompt or an answer that does not fit is told, never cut silently. think: of a model that can
    think the server would, raw or not, take <think>...</think> out of the answer's text while its tokens stay.
    """

    def most_of(self, request: httpx.Request) -> int:
        """The progress of a pull goes on for as long as that does; a vocabulary is larger than most answers."""
        if request.url.path.endswith("/api/show"):
            return max(self.most, VOCABULARY)
        return self.most * (100 if request.url.path.endswith("/api/pull") else 1)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        for path in (path for path in ADDED if request.url.path.endswith(path)):
            body = json.loads(request.content) | ADDED[path]
            headers = {k: v for k, v in request.headers.items() if k != "content-length"}
            request = httpx.Request(
                request.method, request.url, headers=headers, json=body, extensions=request.extensions
            )
        response = await super().handle_async_request(request)
        if response.status_code in (429, 503):
            await response.aclose()
            raise Unavailable(f"{request.url.host} is busy (HTTP {response.status_code})", retry_after(response))
        return response


@asynccontextmanager
async def clear_ollama_errors(url: str, timeout: float) -> AsyncIterator[None]:
    try:
        async with clear_faults(url, timeout):
            yield
    except ollama.ResponseError as error:
        reason = f"{url} says: {_plain(error.error)}"
        if "context size" in reason:
            reason += "; give a larger teacher.num_ctx"
        if 400 <= error.status_code < 500 and error.status_code != 408:
            raise Refused(reason) from error
        raise Fault(reason) from error
    except Unfit:
        raise
    except (ValueError, TypeError, AttributeError) as error:  # pydantic's, json's and Unicode's are ValueErrors
        raise Fault(f"{url} sent something that is not Ollama's JSON") from error


def _plain(error: object) -> str:
    """Ollama wraps its engine's errors: a JSON string inside a string."""
    try:
        return str(json.loads(str(error))["error"]["message"])
    except (ValueError, TypeError, KeyError):
        return str(error)


def check_answer(said: ollama.GenerateResponse, request: Request, tokens: int, top: int) -> None:
    """Raises where an answer is not a whole one to the very prompt that was asked. tokens, top: asked for."""
    check_prompt(said.prompt_eval_count, len(request.prompt_ids))
    check_whole(said, tokens, top)


def check_whole(said: ollama.GenerateResponse, tokens: int, top: int) -> None:
    """The same of an answer to a prompt that the server rendered."""
    if not said.done:
        last = [e.token for e in said.logprobs or ()][-REPEATS:]
        if len(last) == REPEATS and len(set(last)) == 1:
            raise Refused(f"Ollama gave the answer up silently: it repeats {last[0]!r} without end")
        raise Fault("the answer stopped in the middle (done: false)")
    if said.thinking:
        raise Refused(
            "Ollama took a part of the answer's text away as thinking, although it was asked not to (think: false): "
            "this version does not heed that for a raw prompt. Update Ollama, or serve the GGUF with llama-server "
            "and use teacher=openai"
        )
    if said.logprobs is None and said.response:
        raise Refused("the answer came without logprobs")
    if said.done_reason not in ("stop", "length"):
        raise Refused(f"the server generated nothing (done_reason {said.done_reason!r})")
    check_size(max(said.eval_count or 0, len(said.logprobs or ())), tokens)
    check_alternatives([len(entry.top_logprobs or ()) for entry in said.logprobs or ()], top)


def joined(parts: list[ollama.GenerateResponse]) -> ollama.GenerateResponse:
    """A stream as the one answer that it would have been."""
    if not parts:
        raise Fault("the stream ended before it began")
    entries = [entry for part in parts for entry in part.logprobs or ()]
    text = "".join(part.response or "" for part in parts)
    return parts[-1].model_copy(update={"response": text, "logprobs": entries})


def entry_of(said: Any) -> Entry:
    top = [(other.token.encode(), other.logprob) for other in said.top_logprobs or ()]
    return Entry(said.token.encode(), said.logprob, top)


async def pull(client: ollama.AsyncClient, model: str) -> None:
    with Progress() as bar:
        task = bar.add_task(f"pulling {model}", total=None)
        async for part in await client.pull(model, stream=True):
            bar.update(task, description=f"pulling {model}: {part.status}", total=part.total, completed=part.completed)
