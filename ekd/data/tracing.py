"""From requests to traces: who writes the text, what the teacher reads, the verdict, and a second reading."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import NamedTuple

import numpy as np

from ekd.data.texts import KeptTexts
from ekd.engine.crew import Batched, Claim, Crew, batches_of
from ekd.models.progress import tracked
from ekd.store.codec import Layout
from ekd.store.shard import PackedTrace, part
from ekd.types import Failure, Policy, Request, Teacher, Text, Trace


class Asked(NamedTuple):
    request: Request
    text: Text | None  # that a policy wrote


@dataclass(frozen=True, kw_only=True)
class Tracing:
    """policy: who writes; None: the teacher, or a request's own text. grade: (problem id, text's ids) -> verdict."""

    policy: Policy | None
    grade: Callable[[str, Sequence[int]], str]
    quiet: bool

    def traces(
        self, crew: Crew, claim: Claim, company: Sequence[Request], kept: KeptTexts
    ) -> Iterator[Trace | Failure]:
        """In the order in which teachers give them; ends when there is nothing to claim. Texts that were kept are not
        written again.

        company: all requests that are written together, done or not.
        """
        known: dict[str, Asked] = {}  # what is with a teacher

        def ask(least: int, most: int) -> list[Request]:
            found = self._with_texts(claim(least, most), company, kept)
            known.update((asked.request.key, asked) for asked in found)
            return [asked.request._replace(prompt_ids=asked.request.read_ids) for asked in found]

        for result in crew.trace(ask):
            yield self._about(known, result)
            known.pop(result.key, None)
        for request, _ in known.values():
            yield Failure(request.key, request.problem_id, "the teacher did not say anything of it")

    def _with_texts(self, requests: Sequence[Request], company: Sequence[Request], kept: KeptTexts) -> list[Asked]:
        if self.policy is None or not requests:
            return [Asked(request, None) for request in requests]
        texts = self.write(self.policy, requests, company, kept)
        return [Asked(r._replace(response_ids=texts[r.key].ids), texts[r.key]) for r in requests]

    def write(
        self, policy: Policy, requests: Sequence[Request], company: Sequence[Request], kept: KeptTexts
    ) -> dict[str, Text]:
        """Their texts by key, and those of others. A batch that lacks one is written whole."""
        texts = kept.read()
        missing = {r.key for r in requests} - texts.keys()
        batches = batches_of(company, policy.batch_size)
        lacking = [batch for batch in batches if not missing.isdisjoint(r.key for r in batch)]
        for batch in tracked(lacking, f"{policy.name} writes", quiet=self.quiet, transient=True):
            texts |= kept.keep(batch, policy.write(batch))
        return texts

    def _about(self, known: Mapping[str, Asked], trace: Trace | Failure) -> Trace | Failure:
        """With what is known of a trace beside what the teacher says."""
        if isinstance(trace, Failure):
            return trace
        request, text = known[trace.key]
        read = None if request.teacher_prompt_ids is None else np.array(request.teacher_prompt_ids, np.int32)
        author = "teacher" if request.response_ids is None else "dataset"
        return trace._replace(
            prompt_ids=np.array(request.prompt_ids, np.int32),
            teacher_prompt_ids=read,
            policy=author if self.policy is None else self.policy.name,
            verdict=self.grade(request.problem_id, trace.response_ids.tolist()),
            log_q=None if text is None else given_to(trace, text),
        )


def given_to(trace: Trace, text: Text) -> np.ndarray | None:
    """ln q of the trace's tokens, where these are the ones that were written: a teacher of another family reads a text
    up to its first special token, and as the student's tokenizer would write it.
    """
    n = len(trace.response_ids)
    if text.log_q is None or text.ids[:n] != trace.response_ids.tolist():
        return None
    return np.array(text.log_q[:n], np.float32)


def scoring(teacher: Teacher, why: str) -> Teacher:
    """The same teacher, reading texts that others wrote. Raises ValueError for one that cannot."""
    if teacher.mode == "score":
        return teacher
    if not is_dataclass(teacher):
        raise ValueError(
            f"{why}: somebody else writes the texts, and {type(teacher).__name__} does not say how it would read them "
            "(teacher.mode=score): take teacher=hf, or teacher=openai with llama-server, vLLM or SGLang"
        )
    return replace(teacher, mode="score")  # says itself, in a sentence, where it cannot


def whole_batches(
    requests: Sequence[Request], missing: Collection[str], texts: Mapping[str, Text], teacher: Teacher
) -> list[Request]:
    """Those that are missing, with all that are read beside them when nothing is there: a kill changes no company.

    texts: of the requests, by key. Longest first, as the teacher reads them.
    """
    if not isinstance(teacher, Batched):
        return [r for r in requests if r.key in missing]
    known = [r for r in requests if r.key in texts]
    ordered = sorted(known, key=lambda r: -len(r.read_ids) - len(texts[r.key].ids))
    batches = [ordered[at : at + teacher.batch_size] for at in range(0, len(ordered), teacher.batch_size)]
    return [r for batch in batches if any(r.key in missing for r in batch) for r in batch]


class Grades(NamedTuple):
    """What is said after tracing. Sums over texts."""

    texts: int = 0
    graded: int = 0
    correct: int = 0
    unparseable: int = 0
    cut: int = 0
    tokens: int = 0

    def add(self, verdict: str, finish: str, tokens: int) -> Grades:
        one = (1, verdict != "", verdict == "correct", verdict == "unparseable", finish == "length", tokens)
        return Grades(*(a + int(b) for a, b in zip(self, one, strict=True)))

    def words(self, who: str) -> str:
        """One line, and a second where most texts did not end."""
        texts, graded = max(self.texts, 1), max(self.graded, 1)
        line = (
            f"{who}: {self.correct / graded:.0%} right of {self.graded} graded texts, {self.cut / texts:.0%} cut off, "
            f"{self.unparseable / graded:.0%} without an answer that can be read, {self.tokens / texts:.0f} tokens each"
        )
        if self.cut <= self.texts / 2:
            return line
        return (
            f"{line}\nmost of these texts were cut off, so a student learns from them to go on and on: raise "
            "max_new_tokens, or ask for shorter answers (prompt.instruction, prompt.thinking=false)"
        )


def packed(result: Trace | Failure, layout: Layout) -> PackedTrace | Failure:
    """An unsound trace is one that failed: the others are stored."""
    if isinstance(result, Failure):
        return result
    try:
        return part(result, layout)
    except ValueError as error:
        return Failure(result.key, result.problem_id, str(error))
