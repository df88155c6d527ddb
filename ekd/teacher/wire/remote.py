"""What every teacher behind a server has: where it is, how it is sampled, and how long one waits."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from ekd.teacher.wire.transport import Wire
from ekd.teacher.wire.vocabulary import Vocabulary, vocabulary_of


@dataclass(frozen=True, kw_only=True)
class Remote:
    """tokenizer: the student's, in whose ids the traces are. max_hard: the share of hard rows that is borne.

    attempts, backoff, patience: see `Wire`. timeout: seconds without a word from the server.
    """

    tokenizer: str
    endpoints: list[str]
    mode: str
    concurrency: int
    temperature: float
    top_p: float
    max_new_tokens: int
    max_hard: float
    attempts: int
    backoff: float
    timeout: float
    patience: float
    exact: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                "teacher.temperature is 0 (greedy) or more and 0 < teacher.top_p <= 1, "
                f"not {self.temperature} and {self.top_p}"
            )
        if not 0 <= self.max_hard <= 1:
            raise ValueError(f"teacher.max_hard is a share, 0 to 1, not {self.max_hard}")
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

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return vocabulary_of(self.tokenizer)
