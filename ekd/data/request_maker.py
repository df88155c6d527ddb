"""A problem as requests to a teacher: what student and teacher read, seeds, and keys of all that decides the text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from ekd.data.family import Family
from ekd.models.prompt import Prompt
from ekd.models.teacher_prompt import SAME, TeacherPrompt
from ekd.models.turn import first_token
from ekd.types import Problem, Request

TOGETHER = 1024  # problems that are put into tokens at a time


@dataclass(frozen=True, kw_only=True)
class RequestMaker:
    """tokenizer: the student's. own: the teacher's prompt, None where it reads the student's. contrast, samples, seed,
    text_tokens: see `ekd.data.collect.Collector`. reads: whether the teacher reads given text.
    """

    prompt: Prompt
    own: TeacherPrompt | None
    contrast: TeacherPrompt | None
    tokenizer: PreTrainedTokenizerBase
    family: Family
    reads: bool
    samples: int
    seed: int
    text_tokens: int

    def of(self, problems: Sequence[Problem], examples: Sequence[Problem], *, given: bool) -> list[Request]:
        """In the order of the problems. given: whether the teacher is given the problems' own solutions."""
        some = [problems[at : at + TOGETHER] for at in range(0, len(problems), TOGETHER)]
        return [request for together in some for request in self._together(together, examples, given)]

    def _together(self, problems: Sequence[Problem], examples: Sequence[Problem], given: bool) -> Iterator[Request]:
        asked = [problem for problem in problems if problem.question]
        prompts = self.prompt.ids_of_all(self.tokenizer, asked, examples)
        reads = self._reads(asked, examples, prompts)
        responses = self._responses(asked, prompts) if given else [None] * len(asked)
        made = iter(zip(prompts, responses, reads, strict=True))
        for problem in problems:
            if not problem.question:
                yield from self._text_requests(problem)
                continue
            prompt_ids, response, further = next(made)
            for sample in range(1 if given else self.samples):
                yield self._request(problem, prompt_ids, response, sample, **further)

    def _responses(self, problems: Sequence[Problem], prompts: Sequence[list[int]]) -> list[list[int]]:
        for problem in problems:
            if not problem.solution:
                raise ValueError(
                    f"teacher.mode=score reads given solutions and problem {problem.id} has none; set "
                    "teacher.mode=generate"
                )
        return self.prompt.answers_ids(self.tokenizer, [problem.solution for problem in problems], prompts)

    def _reads(
        self, problems: Sequence[Problem], examples: Sequence[Problem], prompts: Sequence[list[int]]
    ) -> list[dict[str, Any]]:
        """What the teacher reads where that is not what the student reads, and what it reads again."""
        reader, own = self.family.tokenizer or self.tokenizer, self.own
        again: list[Any] = [None] * len(problems)
        if self.contrast is not None:
            again = self.contrast.ids_of_all(reader, self.prompt, problems, examples)
        if self.family.speaks_text:
            if self.prompt.thinking:
                raise ValueError(
                    "prompt.thinking=true: a server that renders messages itself takes thoughts out of its answer; "
                    "give teacher.own_tokenizer=MODEL (its hub name or folder), or prompt.thinking=false"
                )
            said = [(own or SAME).messages(self.prompt, problem, examples) for problem in problems]
            return [{"messages": one, "contrast_prompt_ids": ids} for one, ids in zip(said, again, strict=True)]
        if own is None and self.family.bridge is None:
            return [{"contrast_prompt_ids": ids} for ids in again]
        read = (own or SAME).ids_of_all(reader, self.prompt, problems, examples)
        same = [self.family.bridge is None and theirs == ours for theirs, ours in zip(read, prompts, strict=True)]
        return [
            {"teacher_prompt_ids": None if alike else theirs, "contrast_prompt_ids": ids}
            for theirs, alike, ids in zip(read, same, again, strict=True)
        ]

    def _text_requests(self, document: Problem) -> list[Request]:
        """A document in pieces of text_tokens, the last of which alone ends as the text does."""
        if not self.reads:
            raise ValueError(
                f"{document.id} is plain text, which a teacher reads and does not answer: set teacher.mode=score"
            )
        tokenizer, prompt_ids = self.tokenizer, [first_token(self.tokenizer)]
        ids, end = tokenizer.encode(document.solution, add_special_tokens=False), tokenizer.eos_token_id
        ids = ids if end is None or not self.family.same_end else [*ids, end]
        read = None if self.family.tokenizer is None else [first_token(self.family.tokenizer)]
        cuts = range(0, len(ids), self.text_tokens)
        pieces = [document._replace(id=f"{document.id}:{n}") for n in range(1, len(cuts) + 1)]
        texts = [ids[at : at + self.text_tokens] for at in cuts]
        return [
            self._request(piece, prompt_ids, part, 0, teacher_prompt_ids=read)
            for piece, part in zip(pieces, texts, strict=True)
        ]

    def _request(
        self, problem: Problem, prompt_ids: list[int], response: list[int] | None, sample: int, **others: Any
    ) -> Request:
        """others: what the teacher reads. Seeds are of the student's prompt: the others change no text."""
        made = [prompt_ids, response, None if response else [self.seed, sample]]
        seed = hashlib.sha256(json.dumps(made).encode()).hexdigest()
        further = {name: ids for name, ids in others.items() if ids is not None}
        digest = hashlib.sha256(json.dumps([made, further]).encode()).hexdigest() if further else seed
        return Request(digest[:32], problem.id, sample, int(seed[:12], 16), prompt_ids, response, **others)
