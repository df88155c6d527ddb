"""The nouns that travel through the house, and the five verbs. Nothing else.

Letters in shapes: B sequences, T positions, R rows (one row = one response token), P prompt tokens, n response tokens
of one sequence, K known teacher ids of a row (padded to the widest of the batch), V vocabulary, H hidden size. All
logarithms are natural; entropy is in nats.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class Problem(NamedTuple):
    """What a dataset asks."""

    id: str
    question: str
    answer: str  # the final answer as its source writes it, e.g. "72"
    solution: str = ""  # a worked solution that ends in \boxed{answer}; "" where the source has none


class Request(NamedTuple):
    """One piece of work for a teacher."""

    key: str  # identity in the store: a hash of everything that decides the text
    problem_id: str
    sample: int  # 0, 1, ... when a problem is solved several times
    seed: int  # this sample's own, so that order, batches and restarts never matter
    prompt_ids: list[int]  # what the student reads
    response_ids: list[int] | None = None  # given: score these tokens; None: generate
    teacher_prompt_ids: list[int] | None = None  # what the teacher reads in their place; None: the same
    contrast_prompt_ids: list[int] | None = None  # a second prompt, under which the response's tokens are read as well
    messages: list[dict[str, str]] | None = None  # what it reads, for a server with a chat template of its own

    @property
    def read_ids(self) -> list[int]:
        """What the teacher reads before the response."""
        return self.prompt_ids if self.teacher_prompt_ids is None else self.teacher_prompt_ids


class Trace(NamedTuple):
    """One solution and what the teacher thought at each of its tokens.

    Row r belongs to response token r: it is the distribution that *predicted* that token. Rows are ragged and lie flat,
    one after the other. **The first entry of a row is the token that came next**; the others follow by falling
    probability. An unmatched row (valid = False) knows nothing but its token: one entry, logprob 0, no tail.
    """

    key: str
    problem_id: str
    sample: int
    finish: str  # "stop" (response_ids ends with the end token) or "length"
    prompt_ids: np.ndarray  # (P,) int32
    response_ids: np.ndarray  # (n,) int32
    counts: np.ndarray  # (n,) int32, entries of each row, at least 1
    ids: np.ndarray  # (sum counts,) int32
    logprobs: np.ndarray  # (sum counts,) float32, at temperature 1, before any sampling filter
    log_tail: np.ndarray  # (n,) float32, ln of the mass that the row does not name; -inf when it names all
    entropy: np.ndarray  # (n,) float32, nats, of the whole distribution
    exact: bool  # entropy is exact; False: the midpoint of its bounds (a server that gives only k ids)
    valid: np.ndarray  # (n,) bool, False = unmatched row
    log_norm: np.ndarray  # (n, temperatures) float32, ln sum_j p_j^(1/T) for each temperature the store lists
    verdict: str = ""  # of its text: correct, wrong or unparseable; "" where nobody graded it
    policy: str = ""  # who wrote the text: teacher, dataset, student or student@ROUND; "" where it is not known
    teacher_prompt_ids: np.ndarray | None = None  # int32, what the teacher read; None: prompt_ids
    contrast: np.ndarray | None = None  # (n,) float32, ln p of each response token under a second prompt
    log_q: np.ndarray | None = (
        None  # (n,) float32, of each response token by the policy that wrote it, at temperature 1
    )
    ends: np.ndarray | None = None  # (n,) bool, where a token of a teacher of another family ends with this one; None:
    # everywhere (one tokenizer); nowhere: translated by an ekd that did not keep it
    agreement: np.ndarray | None = None  # (n,) float32, 0 to 1, of several teachers that are read as one; never stored
    teacher: str = ""  # whose rows these are, by its store; several that are read as one: "A + B"; "" if not known


class Failure(NamedTuple):
    """A request that finally failed. The run goes on without it; the same command asks again."""

    key: str
    problem_id: str
    reason: str


class Stats(NamedTuple):
    """What the student thinks at each row (no gradient). Made by `head.stats`."""

    entropy: Tensor  # (R,) nats, temperature 1, whole vocabulary
    log_q: Tensor  # (R, K+1) the student's mass on the row's known ids and, last, on everything else
    argmax: Tensor  # (R,) the student's most likely id
    top: Tensor  # (R, some) its most likely ids, by falling probability; (R, 0) where no signal asks for them
    log_top: Tensor  # (R, some) ln q of those


class Rows(NamedTuple):
    """The response rows of a batch, flat, in row-major order of its mask.

    Column 0 of a teacher row is the token that came next; the last column is the tail, all that the row does not name.
    """

    sequence: Tensor  # (R,) which sequence of the batch; ascending
    position: Tensor  # (R,) 0 ... length - 1 within its response
    length: Tensor  # (R,) n, response tokens of its sequence
    target: Tensor  # (R,) the token that came next
    end: Tensor  # (R,) bool, the target is the end token that closes the answer
    valid: Tensor  # (R,) bool, False = unmatched row: no teacher distribution
    teacher_ids: Tensor  # (R, K) int64, -1 where a row has fewer
    teacher_logprobs: Tensor  # (R, K+1) float32 at temperature 1, -inf where there is nothing
    teacher_entropy: Tensor  # (R,) nats, temperature 1
    log_norm: Tensor  # (R,) ln sum_j p_j^(1/T) at the training temperature T; 0 at T = 1
    vocab: int  # V, entries of the student's softmax
    draws: bool = False  # teacher_logprobs are ln of counts / draws, which say 0 of an id never drawn
    contrast: Tensor | None = None  # (R,) ln p of the token that came next, under the teacher's second prompt
    agreement: Tensor | None = None  # (R,) from 0 to 1, of several teachers whose mean this is
    span: Tensor | None = None  # (R,) ascending, which span a row is of (`ekd.data.collate.spans`); None: not known
    teachers: tuple[str, ...] = ()  # (B,) whose rows those of each sequence are: teachers[sequence[r]] of row r
    student: Stats | None = None  # filled only for a signal that asks


class Batch(NamedTuple):
    """Position t predicts `target_ids[t]`: shifted once, in `collate`."""

    input_ids: Tensor  # (B, T)
    attention_mask: Tensor  # (B, T) 1 = real token
    position_ids: Tensor  # (B, T)
    target_ids: Tensor  # (B, T), 0 outside the mask
    mask: Tensor  # (B, T) bool, True where target_ids is a response token; R = mask.sum()
    rows: Rows
    # `ekd.models.prefix.Chain`s: how what rows begin with alike, never in the mask, is read once. () for whole
    shared: tuple[tuple[tuple[int, Tensor, Tensor | None], ...], ...] = ()


class Verdict(NamedTuple):
    """What a grader says: never an exception, whatever the response holds."""

    status: str  # "correct", "wrong" or "unparseable"
    extracted: str  # what was read as the final answer; "" when unparseable


class Dataset(Protocol):
    """Poses and grades. Deterministic; reads its files when asked, not when built."""

    def problems(self, split: str) -> list[Problem]:
        """split is train, val or test; no two share a problem. Raises ValueError for a split it does not have."""

    def grade(self, problem: Problem, response: str) -> Verdict: ...


class Teacher(Protocol):
    """Traces. Streams; loads its model or opens its connection at the first request, not when built."""

    mode: str  # "generate" or "score"
    exact: bool  # whether its entropies are exact
    tokenizer: str | None  # the model whose token ids it speaks; None: it speaks text and adapts to the student's

    def origin(self) -> dict[str, Any]:
        """Everything about the teacher that decides its traces, as plain JSON values, without a secret."""

    def trace(self, requests: Iterable[Request]) -> Iterator[Trace | Failure]:
        """`prompt_ids` are what it reads: whoever asks has put the teacher's own prompt there."""


@runtime_checkable
class Opens(Protocol):
    """A teacher that can stay warm, and then does whatever a request asks for: generates, or scores given text."""

    def open(self) -> AbstractContextManager[Teacher]: ...


class Text(NamedTuple):
    """What a model wrote."""

    ids: list[int]  # the end token included when finish is "stop"
    finish: str  # "stop" or "length"
    seconds: float = 0.0  # its share of the time that the machine was busy
    entropy: Sequence[float] = ()  # nats, of the distribution before each id, where somebody looked
    log_q: list[float] | None = None  # of each id, at temperature 1, where the writer was asked for it


class Policy(Protocol):
    """Who writes the texts that the teacher reads, where that is neither the teacher nor the dataset."""

    @property
    def name(self) -> str:
        """student, or student@ROUND."""

    @property
    def batch_size(self) -> int:
        """Texts that are written together, always the same ones: sums are rounded by the company they keep."""

    def origin(self) -> dict[str, Any]:
        """Everything that decides its texts, beside the requests and what its weights are by now."""

    def write(self, batch: Sequence[Request]) -> list[Text]:
        """One text for each request, from its own seed."""


class Signal(Protocol):
    """What is measured: higher = more to learn. No gradient."""

    needs_student: bool  # True: rows.student must be filled (one more pass of the head, without gradient)

    def __call__(self, rows: Rows) -> Tensor: ...  # (R,)


class Selector(Protocol):
    """How rows are chosen by their score. Knows nothing of models; one with memory is an nn.Module with buffers."""

    def __call__(self, score: Tensor, sequence: Tensor) -> Tensor:
        """score (R,), sequence (R,) ascending -> weight (R,), finite, never negative, one row a sequence at least."""


class Loss(Protocol):
    """What a chosen row costs: a plain formula, unreduced."""

    def __call__(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """log_p teacher, log_q student, both (N, K+1) -> (N,). Column 0: the token that came next; last: the tail.

        An empty category holds a large negative finite number in both, so that p ln p is 0 without a special case.
        """


@runtime_checkable
class NeedsDensity(Protocol):
    """A signal or loss that may need p of every id, as most do not: counts of draws say 0 of an id never drawn."""

    needs_density: bool


@runtime_checkable
class NeedsTop(Protocol):
    """A signal that reads the student's most likely ids (`Stats.top`)."""

    @property
    def needs_top(self) -> int:
        """How many; 0: none."""


@runtime_checkable
class NeedsContrast(Protocol):
    """A signal that compares two readings of a text (`Trace.contrast`)."""

    needs_contrast: bool


@runtime_checkable
class NeedsAgreement(Protocol):
    """A signal that compares several teachers of one text (`Trace.agreement`)."""

    needs_agreement: bool


@runtime_checkable
class NeedsOwnText(Protocol):
    """A loss that is the gradient of a distance only on text that the student itself wrote."""

    needs_own_text: bool


@runtime_checkable
class PricesSpans(Protocol):
    """A loss that prices the rows of a span together: those between two places where a token of the teacher's ends
    with one of the student's. Called as any loss, every row is a span of its own.
    """

    def of_spans(self, log_p: Tensor, log_q: Tensor, span: Tensor) -> Tensor:
        """(N, K+1), (N, K+1), span (N,) ascending -> (N,): what a span costs, shared equally by its rows."""


@runtime_checkable
class Importance(Protocol):
    """A selector whose weights may be importance weights: right on average as a sum over rows, 1 a row.

    Such a step is divided by the number of rows that were scored. By the weight that happened to be drawn it would be
    a ratio of two sums that move together, which is not right on average.
    """

    importance: bool


@runtime_checkable
class Learns(Protocol):
    """A signal or selector that is told what the rows it was shown cost, before the optimizer steps."""

    def learn(self, rows: Rows, weight: Tensor, price: Tensor) -> None:
        """rows: as the signal saw them; weight (R,), price (R,) detached; price is 0 where weight is 0."""


@runtime_checkable
class Reviews(Protocol):
    """A signal or selector that is shown the same rows again once the optimizer has stepped (one more forward pass)."""

    def review(self, rows: Rows) -> None:
        """Called for each `learn`, in the same order, on every rank; rows.student is of the student after the step."""
