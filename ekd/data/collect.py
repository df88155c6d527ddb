"""Problems in, a store of traces out: asks the teacher for what is missing, and for nothing twice."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from ekd.data.family import Family, family_of
from ekd.data.texts import KeptTexts
from ekd.data.tracing import Grades, Tracing, packed, scoring, whole_batches
from ekd.models.load import load_tokenizer
from ekd.models.progress import ProgressBar
from ekd.models.prompt import Prompt
from ekd.models.source import home
from ekd.models.teacher_prompt import SAME, TeacherPrompt
from ekd.models.turn import end_of_turn, first_token
from ekd.store.store import Store
from ekd.store.tokenizer import check_tokenizer, tokenizer_fingerprint
from ekd.store.unsaved import Unsaved, recover
from ekd.types import Dataset, Failure, Policy, Problem, Request, Teacher

log = logging.getLogger(__name__)

SHARD_SECONDS = 20.0  # traces become a shard after so long at the latest ...
SHARD_TRACES = 512  # ... or when there are so many; each is on disk before


class Collected(NamedTuple):
    keys: list[str]  # of the traces asked for, in the order of the problems; failures left out
    made: int  # of these, traced now
    failures: list[Failure]
    grades: Grades  # of the texts that were traced now


@dataclass(frozen=True, kw_only=True)
class Collector:
    """tokenizer: the model whose ids the traces speak, the student's. store: a folder, or null for one under `home()`
    named by what makes the traces. samples: solutions of each problem. seed: of the teacher's sampling.
    text_tokens: of a piece of plain text; a longer document (a problem without a question) is cut. teacher_prompt: what
    the teacher reads in place of the prompt; contrast: a second one, under which its tokens are read again; policy: who
    writes the texts in the teacher's or the dataset's place. None: the same, none, and nobody.
    """

    teacher: Teacher
    dataset: Dataset
    prompt: Prompt
    tokenizer: str
    store: str | None
    samples: int
    seed: int
    trust_remote_code: bool
    text_tokens: int
    teacher_prompt: TeacherPrompt | None = None
    contrast: TeacherPrompt | None = None
    policy: Policy | None = None

    def __post_init__(self) -> None:
        if self.text_tokens < 1:
            raise ValueError(f"data.collector.text_tokens is 1 or more, not {self.text_tokens}")
        if self.samples < 1:
            raise ValueError(f"samples (solutions of each problem) is 1 or more, not {self.samples}")
        if self.samples > 1 and self.teacher.mode == "score" and self.policy is None:
            raise ValueError(f"samples={self.samples} needs teacher.mode=generate: a given solution is scored once")
        if self.policy is not None:  # it writes, so the teacher reads
            object.__setattr__(self, "teacher", scoring(self.teacher, f"policy={self.policy.name}"))

    def origin(self) -> dict[str, Any]:
        """What made the traces; a store made by anything else is refused."""
        teacher, bridged = self.family.teacher.origin(), self.family.bridge is not None
        drawn = {"draws": teacher["draws"]} if teacher.get("draws") else {}
        end = end_of_turn(self.student_tokenizer)  # said where it is not what ends a text
        others = {"teacher_prompt": self.own_prompt, "contrast": self.contrast}
        return {
            **{name: other.origin(self.prompt) for name, other in others.items() if other is not None},
            **({} if self.policy is None else {"policy": self.policy.origin()}),
            **drawn,
            **self.family.origin(),
            **({"end": end} if end != self.student_tokenizer.eos_token_id else {}),
            "vocab": (None if bridged else teacher.get("vocab")) or len(self.student_tokenizer),
            "temperatures": teacher.get("temperatures", []),
            "teacher": teacher,
            "dataset": type(self.dataset).__name__,
            "prompt": asdict(self.prompt),
            "template": hashlib.sha256(str(self.student_tokenizer.chat_template).encode()).hexdigest(),
            "tokenizer": tokenizer_fingerprint(self.student_tokenizer),
        }

    def open(self) -> Store:
        origin = self.origin()
        store = Store.create(self._path(origin), {**origin, "ekd": version("ekd").split(".")[0]})
        recover(store)
        return store

    def collect(self, split: str, count: int | None) -> Collected:
        """Traces the first `count` problems of a split (null: all). What is done is saved at once, also on Ctrl-C."""
        requests = self.requests(split, count)
        store = self.open()
        present = store.keys()
        missing = [r for r in requests if r.key not in present]
        failures, grades = self._trace(store, missing, requests, split) if missing else ([], Grades())
        present = store.keys()
        keys = [r.key for r in requests if r.key in present]
        return Collected(keys, len(missing) - len(failures), failures, grades)

    def present(self, split: str, count: int | None) -> list[str]:
        """Keys of the traces that are there already, in the order of the problems. Asks no teacher."""
        keys = self.open().keys()
        return [r.key for r in self.requests(split, count) if r.key in keys]

    def requests(self, split: str, count: int | None, *, texts: bool = True) -> list[Request]:
        """texts: whether a teacher that only reads is given the dataset's solutions; False: others will write them."""
        problems, given = self.check_count(split, count), texts and self.teacher.mode == "score" and self.policy is None
        prompts = [p for p in (self.teacher_prompt, self.contrast) if p is not None]
        shots = max([self.prompt.shots, *(p.shots_of(self.prompt) for p in prompts)])
        examples = self.dataset.problems("train")[: shots + 1] if shots else []
        return [r for problem in problems for r in self._requests(problem, examples, given)]

    def check_count(self, split: str, count: int | None) -> list[Problem]:
        """The first `count` problems of a split. Raises ValueError where it has none, or fewer."""
        problems = self.dataset.problems(split)
        if not problems:
            raise ValueError(
                f"the {split} split of dataset {type(self.dataset).__name__.lower()} holds no problems: give it a file "
                "that has some" + (" or a larger dataset.val_percent" if split == "val" else "")
            )
        if count is not None and not 0 < count <= len(problems):
            raise ValueError(
                f"the dataset's {split} split has {len(problems)} problems; {count} were asked for: set "
                f"data.{split}_problems={len(problems)}, or null for all"
            )
        return problems[:count]

    def _requests(self, problem: Problem, examples: Sequence[Problem], given: bool) -> list[Request]:
        prompt_ids = self.prompt.ids(self.student_tokenizer, problem, examples)
        if not problem.question:
            return self._text_requests(problem, prompt_ids)
        reads = self._reads(problem, examples, prompt_ids)
        if not given:
            return [self._request(problem, prompt_ids, None, sample, **reads) for sample in range(self.samples)]
        if not problem.solution:
            raise ValueError(
                f"teacher.mode=score reads given solutions and problem {problem.id} has none; set teacher.mode=generate"
            )
        response = self.prompt.answer_ids(self.student_tokenizer, problem.solution, prompt_ids)
        return [self._request(problem, prompt_ids, response, 0, **reads)]

    def _reads(self, problem: Problem, examples: Sequence[Problem], prompt_ids: list[int]) -> dict[str, Any]:
        """What the teacher reads where that is not what the student reads, and what it reads again."""
        reader, own = self.family.tokenizer or self.student_tokenizer, self.own_prompt
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
        if self.teacher.mode != "score":
            raise ValueError(
                f"{document.id} is plain text, which a teacher reads and does not answer: set teacher.mode=score"
            )
        tokenizer = self.student_tokenizer
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

    @property
    def own_prompt(self) -> TeacherPrompt | None:
        """The teacher's; None where it reads just what the student reads: such traces are those of any other run."""
        return None if self.teacher_prompt is None or self.teacher_prompt.same else self.teacher_prompt

    @cached_property
    def family(self) -> Family:
        """How the teacher's rows become rows over the student's ids; a server is asked at first use."""
        return family_of(self.teacher, self.tokenizer, self.student_tokenizer, self.trust_remote_code)

    @cached_property
    def student_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the traces; loaded at first use."""
        return load_tokenizer(self.tokenizer, trust_remote_code=self.trust_remote_code)

    def _path(self, origin: dict[str, Any]) -> Path:
        if self.store is not None:
            return Path(self.store).expanduser()
        digest = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()
        name = f"{origin['dataset']}-{origin['teacher'].get('model', 'teacher')}-{self.teacher.mode}".lower()
        return home() / "traces" / f"{re.sub(r'[^a-z0-9.]+', '-', name)}-{digest[:10]}"

    def _check_teacher(self) -> None:
        """Ids that mean one token to the teacher and another to the student would be silent nonsense."""
        if self.family.bridge is not None or self.teacher.tokenizer in (None, self.tokenizer):
            return
        theirs = load_tokenizer(self.teacher.tokenizer, trust_remote_code=self.trust_remote_code)
        check_tokenizer({"tokenizer": tokenizer_fingerprint(theirs)}, self.student_tokenizer)

    def untraced(self, requests: list[Request]) -> list[Request]:
        present = self.open().keys()
        return [r for r in requests if r.key not in present]

    def unwritten(self, requests: list[Request]) -> list[Request]:
        """Those of which there is neither a trace nor a text that waits for the teacher."""
        texts = KeptTexts(self.open().path).read()
        return [r for r in self.untraced(requests) if r.key not in texts]

    def write(self, requests: list[Request]) -> None:
        """The policy's texts of those that are neither traced nor written; all of `requests` are written together."""
        assert self.policy is not None
        kept = KeptTexts(self.open().path)
        self._tracing("train", quiet=True).write(self.policy, self.untraced(requests), requests, kept)

    def read(self, requests: list[Request]) -> list[Failure]:
        """Traces of texts that were written before. Of those that are there, only the company of others is read."""
        store, missing = self.open(), {r.key for r in self.untraced(requests)}
        asked = whole_batches(requests, missing, KeptTexts(store.path).read(), self.teacher)
        return self._trace(store, asked, requests, "train", quiet=True)[0] if asked else []

    def _tracing(self, split: str, *, quiet: bool) -> Tracing:
        return Tracing(teacher=self.family.teacher, policy=self.policy, grade=self._grader(split), quiet=quiet)

    def _trace(
        self, store: Store, missing: list[Request], company: list[Request], split: str, *, quiet: bool = False
    ) -> tuple[list[Failure], Grades]:
        self._check_teacher()
        waiting, kept, grades = Unsaved(store), KeptTexts(store.path), Grades()
        tracing, bridge = self._tracing(split, quiet=quiet), self.family.bridge
        before = 0 if bridge is None else bridge.bytes_by_kind.copy()
        failures: list[Failure] = []
        saved, tokens = monotonic(), 0
        try:
            with ProgressBar(f"tracing {split}", len(missing), quiet=quiet) as bar:
                traces = tracing.traces(missing, company, kept)
                for result in map(partial(packed, layout=store.layout), traces):
                    if isinstance(result, Failure):
                        failures.append(result)
                    else:
                        waiting.add(result)
                        tokens += result.about[6]
                        grades = grades.add(result.verdict, result.about[3], result.about[6])
                    failed = f", {len(failures)} failed" if failures else ""
                    bar.update(bar.done + 1, f"{tokens / bar.seconds:,.0f} tokens/s{failed}")
                    if len(waiting.parts) >= SHARD_TRACES or monotonic() - saved > SHARD_SECONDS:
                        waiting.flush()
                        saved = monotonic()
        finally:
            waiting.flush()
        if bridge is not None and not quiet:
            log.info("%s split: %s", split, bridge.told(before))
        kept.forget(store.keys())  # not those that the teacher failed on: they are to be read again
        return failures, grades

    def _grader(self, split: str) -> Callable[[str, Sequence[int]], str]:
        """-> (problem id, ids of a text) -> its verdict; "" for plain text, and where there is no answer."""
        problems = {p.id: p for p in self.dataset.problems(split)}

        def grade(problem_id: str, ids: Sequence[int]) -> str:
            problem = problems.get(problem_id)
            if problem is None or not problem.question or not problem.answer:
                return ""
            text = str(self.student_tokenizer.decode(list(ids), skip_special_tokens=True))
            return self.dataset.grade(problem, text).status

        return grade
