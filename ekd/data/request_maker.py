"""A problem as requests to a teacher: what student and teacher read, seeds, and keys of all that decides the text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from ekd.data.family import Family
from ekd.models.prompt import Prompt
from ekd.models.teacher_prompt import SAME, TeacherPrompt
from ekd.models.turn import first_token
from ekd.types import Problem, Request


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

    def of(self, problem: Problem, examples: Sequence[Problem], given: bool) -> list[Request]:
        """given: whether the teacher is given the problem's own solution."""
        prompt_ids = self.prompt.ids(self.tokenizer, problem, examples)
        if not problem.question:
            return self._text_requests(problem, prompt_ids)
        reads = self._reads(problem, examples, prompt_ids)
        if not given:
            return [self._request(problem, prompt_ids, None, sample, **reads) for sample in range(self.samples)]
        if not problem.solution:
            raise ValueError(
                f"teacher.mode=score reads given solutions and problem {problem.id} has none; set teacher.mode=generate"
            )
        response = self.prompt.answer_ids(self.tokenizer, problem.solution, prompt_ids)
        return [self._request(problem, prompt_ids, response, 0, **reads)]

    def _reads(self, problem: Problem, examples: Sequence[Problem], prompt_ids: list[int]) -> dict[str, Any]:
        """What the teacher reads where that is not what the student reads, and what it reads again."""
        reader, own = self.family.tokenizer or self.tokenizer, self.own
        again = None if self.contrast is None else self.contrast.ids(reader, self.prompt, problem, examples)
        if self.family.speaks_text:
            if self.prompt.thinking:
                raise ValueError(
                    "prompt.thinking=true: a server that renders messages itself takes thoughts out of its answer; "
                    "give teacher.own_tokenizer=MODEL (its hub name or folder), or prompt.thinking=false"
                )
            return {"messages": (own or SAME).messages(self.prompt, problem, examples), "contrast_prompt_ids": again}
        if own is None and self.family.bridge is None:
            return {"contrast_prompt_ids": again}
        read = (own or SAME).ids(reader, self.prompt, problem, examples)
        same = self.family.bridge is None and read == prompt_ids
        return {"teacher_prompt_ids": None if same else read, "contrast_prompt_ids": again}

    def _text_requests(self, document: Problem, prompt_ids: list[int]) -> list[Request]:
        """A document in pieces of text_tokens, the last of which alone ends as the text does."""
        if not self.reads:
            raise ValueError(
                f"{document.id} is plain text, which a teacher reads and does not answer: set teacher.mode=score"
            )
        tokenizer = self.tokenizer
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
