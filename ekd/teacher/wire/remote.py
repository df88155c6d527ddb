"""What every teacher behind a server has: where it is, how it is sampled, and how long one waits."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

from ekd.teacher.wire.faults import Foreign, Unfit, hushed
from ekd.teacher.wire.transport import Wire
from ekd.teacher.wire.vocabulary import Vocabulary, vocabulary_of
from ekd.translate.bridge import Bridge, check_align
from ekd.types import Failure, Request, Trace

T = TypeVar("T")
R = TypeVar("R", bound="Remote")


@dataclass(frozen=True, kw_only=True)
class Remote:
    """tokenizer: the student's, in whose ids the traces are. max_unmatched: the share of unmatched rows that is borne.
    own_tokenizer: the teacher's, None where it is the student's or not known; align: auto, same or bytes, see
    `ekd.data.family`; bridge: to a student of another tokenizer.

    attempts, backoff, patience: see `Wire`. timeout: seconds that an answer may take, from first to last word.
    """

    tokenizer: str
    endpoints: list[str]
    mode: str
    concurrency: int
    temperature: float
    top_p: float
    max_new_tokens: int
    max_unmatched: float
    attempts: int
    backoff: float
    timeout: float
    patience: float
    own_tokenizer: str | None = None
    align: str = "auto"  # also of configurations from before there was a choice
    bridge: Bridge | None = None
    exact: bool = field(default=False, init=False)
    agreed: set[str] = field(default_factory=set, init=False, repr=False)  # URLs that read a prompt as we do

    def __post_init__(self) -> None:
        check_align(self.align, self.bridge)
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                "teacher.temperature is 0 (greedy) or more and 0 < teacher.top_p <= 1, "
                f"not {self.temperature} and {self.top_p}"
            )
        if not 0 <= self.max_unmatched <= 1:
            raise ValueError(f"teacher.max_unmatched is a share, 0 to 1, not {self.max_unmatched}")
        if self.timeout <= 0:
            raise ValueError(f"teacher.timeout is more than 0 seconds, not {self.timeout}")
        _ = self.wire  # checks the rest

    @cached_property
    def wire(self) -> Wire:
        return Wire(
            endpoints=self.endpoints,
            concurrency=self.concurrency,
            attempts=self.attempts,
            backoff=self.backoff,
            patience=self.patience,
        )

    @property
    def key_name(self) -> str | None:
        """The environment variable with the key that is sent to the server; None: no key is sent."""
        return None

    @property
    def secret(self) -> str | None:
        return os.environ.get(self.key_name) if self.key_name else None

    def discreet(self, ask: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        """The same call; whatever it raises names the server and does not show the key."""

        async def asked(server: Any, *about: Any) -> T:
            with hushed(server.url, self.secret):
                return await ask(server, *about)

        return asked

    @contextmanager
    def counting(self, url: str) -> Iterator[None]:
        """The first prompt that a server counts otherwise than we do ends the run, a later one costs its answer."""
        try:
            yield
        except Foreign as error:
            if url in self.agreed:
                raise
            raise Unfit(f"{url} cannot be the teacher: {error}") from error
        self.agreed.add(url)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Of the ids that the server is taken to speak."""
        return vocabulary_of(self.own_tokenizer or self.tokenizer)

    def bridged(self: R, bridge: Bridge) -> R:
        return replace(self, bridge=bridge)

    def over(self, requests: Iterable[Request]) -> tuple[Iterable[Request], list[Failure]]:
        """Given texts in the ids that the server speaks; and those that it has none for."""
        if self.bridge is None or self.bridge.teacher is None:
            return requests, []
        return self.bridge.asked(requests)

    def back(self, answers: Iterable[Trace | Failure]) -> Iterator[Trace | Failure]:
        """Traces over the student's ids."""
        bridge = self.bridge if self.bridge is not None and self.bridge.teacher is not None else None
        for answer in answers:
            yield answer if bridge is None or isinstance(answer, Failure) else bridge.of_ids(answer)
