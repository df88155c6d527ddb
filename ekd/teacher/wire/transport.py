"""Requests out, answers in: several endpoints, bounded concurrency, faults retried.

A plain generator outside, asyncio in a thread of its own inside, so that the network goes on while the caller works
on an answer. At most `2 * concurrency` requests for each endpoint are taken from the caller ahead of their answers.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import logging
import queue
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from ekd.teacher.wire.faults import Fault, Refused, Unavailable, Unreachable
from ekd.types import Failure, Request

Client = TypeVar("Client")
Answer = TypeVar("Answer")
T = TypeVar("T")
LONGEST_PAUSE = 30.0  # seconds
REPORT_EVERY = 30.0  # seconds

log = logging.getLogger(__name__)
logging.getLogger("httpx").setLevel(logging.WARNING)  # it writes a line for every request at INFO


@dataclass
class Endpoint(Generic[Client]):
    """One server and how it is doing."""

    url: str
    client: Client
    busy: int = 0
    answers: int = 0
    tokens: int = 0
    faults: int = 0
    strikes: int = 0  # times in a row that it was unavailable
    down_since: float = 0.0
    retry_at: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def strike(self, after: float | None, backoff: float) -> None:
        now = time.monotonic()
        if now < self.retry_at:
            return  # several requests met the same closed door
        if not self.strikes:
            self.down_since = now
        pause = min(backoff * 2**self.strikes, LONGEST_PAUSE) * random.uniform(0.5, 1.0)
        self.strikes += 1
        self.retry_at = now + max(pause, after or 0.0)

    def line(self) -> str:
        seconds = time.monotonic() - self.started
        state = "not answering" if self.strikes else f"{self.busy} running"
        rate = self.tokens / max(seconds, 1e-9)
        return f"{self.url}: {self.answers} answers, {rate:,.0f} tokens/s, {self.faults} faults, {state}"


@dataclass(frozen=True, kw_only=True)
class Wire:
    """endpoints: base URLs. concurrency: requests at once for each. attempts: tries for one request, faults counted.

    backoff: seconds, the first pause; it doubles, with jitter, up to 30. patience: seconds that all endpoints may be
    unavailable before the run is given up.
    """

    endpoints: Sequence[str]
    concurrency: int
    attempts: int
    backoff: float
    patience: float

    def __post_init__(self) -> None:
        for url in self.endpoints:
            check_endpoint(url)
        if not self.endpoints or len(set(self.endpoints)) < len(self.endpoints):
            raise ValueError(f"teacher.endpoints is a list of different URLs, at least one, not {list(self.endpoints)}")
        if self.concurrency < 1 or self.attempts < 1:
            raise ValueError(
                f"teacher.concurrency and teacher.attempts are 1 or more, not {self.concurrency} and {self.attempts}"
            )
        if self.backoff < 0 or self.patience < 0:
            raise ValueError(
                f"teacher.backoff and teacher.patience are 0 seconds or more, not {self.backoff} and {self.patience}"
            )

    def run(
        self,
        requests: Iterable[Request],
        connect: Callable[[str], Any],
        ask: Callable[[Client, Request], Awaitable[tuple[Answer, int]]],
    ) -> Generator[tuple[Request, Answer | Failure], None, None]:
        """connect(url) gives a client (an async context manager); ask(client, request) an answer and its tokens.

        Answers come in the order in which they are ready. Raises ValueError when every endpoint stays unavailable.
        """
        # Each answer makes 10,000 objects; without this the collector walks all of torch for them again and again,
        # which tripled the cost of a token.
        gc.freeze()
        ready: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        worker = Worker()
        loop = worker.loop
        try:
            worker.stack, worker.pool = _submit(self._open(connect), loop).result()
            source = iter(requests)
            pending = 0
            while True:
                while pending < 2 * self.concurrency * len(self.endpoints):
                    request = next(source, None)
                    if request is None:
                        break
                    _submit(self._finish(worker.pool, request, ask), loop).add_done_callback(ready.put)
                    pending += 1
                if not pending:
                    return
                done = ready.get()
                pending -= 1
                yield done.result()
        finally:
            gc.unfreeze()
            worker.close()

    def find(self, connect: Callable[[str], Any], greet: Callable[[Any], Awaitable[None]], hint: str) -> Any:
        """The first server that could be greeted. Raises ValueError, with the hint, where there is none."""
        return run_once(self._find(connect, greet, hint))

    async def _find(self, connect: Callable[[str], Any], greet: Callable[[Any], Awaitable[None]], hint: str) -> Any:
        reasons = []
        tries = self._tries(lambda error: isinstance(error, Fault) and not isinstance(error, Unreachable))
        for url in self.endpoints:
            try:
                async with connect(url) as server:
                    await tries(greet, server)
                    return server
            except (Fault, Refused) as error:
                reasons.append(str(error))
        raise ValueError(f"{'; '.join(reasons)}: {hint}")

    def _tries(self, worth: Callable[[BaseException], bool]) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception(worth),
            stop=stop_after_attempt(self.attempts),
            wait=wait_random_exponential(multiplier=self.backoff, max=LONGEST_PAUSE),
            reraise=True,
        )

    async def _open(self, connect: Callable[[str], Any]) -> tuple[AsyncExitStack, EndpointPool]:
        stack = AsyncExitStack()
        endpoints = [Endpoint(url, await stack.enter_async_context(connect(url))) for url in self.endpoints]
        return stack, EndpointPool(endpoints, self)

    async def _finish(
        self, pool: EndpointPool, request: Request, ask: Callable[[Client, Request], Awaitable[tuple[Answer, int]]]
    ) -> tuple[Request, Answer | Failure]:
        tries = self._tries(lambda error: isinstance(error, Fault))
        try:
            return request, await tries(pool.ask, ask, request)
        except Fault as fault:
            reason = f"{fault} ({self.attempts} attempts)"
        except Refused as refused:
            reason = str(refused)
        return request, Failure(request.key, request.problem_id, reason)


class Worker:
    """An event loop in a thread of its own. A generator that nobody ends is closed at the interpreter's exit, before
    the system stops the threads: waiting for one of them afterwards would never end.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="ekd-wire", daemon=True)
        self.stack = AsyncExitStack()
        self.pool: EndpointPool | None = None
        self.thread.start()
        atexit.register(self.close)

    def close(self) -> None:
        if self.loop.is_closed():
            return
        atexit.unregister(self.close)
        if self.pool is not None:
            self.pool.report()
        _submit(_close(self.stack), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


def check_endpoint(url: str) -> None:
    """Raises ValueError for what is no base URL, without showing what may be a secret in it."""
    if "@" in url or "?" in url:
        raise ValueError(
            "an endpoint (teacher.endpoints) has a user, a password or a query in its URL, which would be written into "
            "files and messages: give scheme, host and port alone, and a key by an environment variable (see "
            "teacher.api_key_env)"
        )
    if not url.lower().startswith(("http://", "https://")):
        raise ValueError(f"an endpoint begins with http:// or https://, not {url!r}")


class EndpointPool:
    """The endpoints of one run. Work goes to whoever is free; one that is unavailable is left out for a while."""

    def __init__(self, endpoints: list[Endpoint[Any]], wire: Wire) -> None:
        self.endpoints = endpoints
        self.wire = wire
        self.changed = asyncio.Condition()
        self.reported = time.monotonic()

    async def ask(self, ask: Callable[[Any, Request], Awaitable[tuple[Any, int]]], request: Request) -> Any:
        while True:
            async with self._borrow() as endpoint:
                try:
                    answer, tokens = await ask(endpoint.client, request)
                except Unavailable as fault:
                    endpoint.strike(fault.after, self.wire.backoff)
                    log.debug("%s: %s", endpoint.url, fault)
                    continue
                except Fault as fault:
                    endpoint.faults += 1
                    log.debug("%s: %s", endpoint.url, fault)
                    raise
                endpoint.strikes = 0
                endpoint.answers += 1
                endpoint.tokens += tokens
                self._report_sometimes()
                return answer

    def report(self) -> None:
        for endpoint in self.endpoints:
            log.info("%s", endpoint.line())

    def _report_sometimes(self) -> None:
        if time.monotonic() - self.reported > REPORT_EVERY:
            self.reported = time.monotonic()
            self.report()

    @asynccontextmanager
    async def _borrow(self) -> AsyncIterator[Endpoint[Any]]:
        async with self.changed:
            while (endpoint := self._free()) is None:
                await self._wait()
            endpoint.busy += 1
        try:
            yield endpoint
        finally:
            async with self.changed:
                endpoint.busy -= 1
                self.changed.notify()

    def _free(self) -> Endpoint[Any] | None:
        now = time.monotonic()
        free = [e for e in self.endpoints if e.busy < self.wire.concurrency and e.retry_at <= now]
        return min(free, key=lambda e: e.busy, default=None)

    async def _wait(self) -> None:
        """Until somebody comes back, or an endpoint that was left out may be tried again."""
        now = time.monotonic()
        if all(e.strikes and now - e.down_since > self.wire.patience for e in self.endpoints):
            raise ValueError(
                f"no teacher has answered for {self.wire.patience:.0f} s ({', '.join(e.url for e in self.endpoints)}); "
                "what is traced is kept: start the server again, then the same command goes on"
            )
        pauses = [e.retry_at - now for e in self.endpoints if e.retry_at > now]
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.changed.wait(), min(pauses, default=None))


def run_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end, also where a loop is already running (a notebook)."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


def _submit(coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> Future[T]:
    return asyncio.run_coroutine_threadsafe(coroutine, loop)


async def _close(stack: AsyncExitStack) -> None:
    """Cancels what is under way (a server stops generating when its client leaves), then closes the clients."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await stack.aclose()
