"""Problems in, a store of traces out: asks the teacher for what is missing, and for nothing twice."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from typing import Any, NamedTuple, TypeAlias

from transformers import PreTrainedTokenizerBase

from ekd.data.family import Family, family_of
from ekd.data.request_maker import RequestMaker
from ekd.data.saving import Traced, save_traces, until_all_is_done
from ekd.data.texts import KeptTexts
from ekd.data.tracing import Grades, Tracing, scoring, whole_batches
from ekd.engine.crew import Claim, Crew, Engine, all_at_once, batches_of
from ekd.engine.local import Local
from ekd.files import home
from ekd.models.load import load_tokenizer
from ekd.models.prompt import Prompt
from ekd.models.teacher_prompt import TeacherPrompt
from ekd.models.turn import end_of_turn
from ekd.store.leases import Leases
from ekd.store.location import Location, local_folder, location
from ekd.store.presence import BEAT, Presence
from ekd.store.store import Store
from ekd.store.tokenizer import check_tokenizer, tokenizer_fingerprint
from ekd.store.unsaved import PATIENCE, Unsaved, recover
from ekd.types import Dataset, Failure, Opens, Policy, Problem, Request, Teacher

log = logging.getLogger(__name__)
Wanted: TypeAlias = "tuple[str, int | None, bool]"  # a split, how many of its problems, and as `requests` says: texts


class Collected(NamedTuple):
    keys: list[str]  # of the traces asked for, in the order of the problems; failures left out
    made: int  # of these, traced now
    failures: list[Failure]
    grades: Grades  # of the texts that were traced now


@dataclass(frozen=True, kw_only=True)
class Collector:
    """tokenizer: the model whose ids the traces speak, the student's. store: a folder, an address, or null for one
    under `home()` named by what makes the traces. samples: solutions of each problem. seed: of the teacher's sampling.
    text_tokens: of a piece of plain text; a longer document (a problem without a question) is cut. teacher_prompt: what
    the teacher reads in place of the prompt; contrast: a second one, under which its tokens are read again; policy: who
    writes the texts in the teacher's or the dataset's place. None: the same, none, and nobody. share: claim little at a
    time, as others may come and help. patience: seconds without a heartbeat after which what another has claimed is
    free. engine: where the teacher is asked.
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
    share: bool = False
    patience: float = PATIENCE
    engine: Engine = Local()  # noqa: RUF009 (it is frozen)
    crew: Crew | None = field(default=None, init=False, repr=False, compare=False)  # that stays warm
    asked: dict[Wanted, list[Request]] = field(default_factory=dict, init=False, repr=False, compare=False)
    known: dict[Wanted, list[str]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.patience < 3 * BEAT:
            raise ValueError(
                f"data.collector.patience is {3 * BEAT:g} seconds or more (three heartbeats), not {self.patience}"
            )
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
        recover(store, self.patience)
        return store

    def collect(self, split: str, count: int | None) -> Collected:
        """Traces the first `count` problems of a split (null: all), with whoever else does so now. What is done is
        saved at once, also on Ctrl-C.
        """
        requests, store = self.requests(split, count), self.open()
        present = store.keys()
        missing = {r.key: r for r in requests if r.key not in present}
        traced = self._traced_by_all(store, missing, requests, split) if missing else Traced([], Grades())
        keys = self.present(split, count)
        self.asked.pop((split, count, True), None)  # of 100,000 prompts only the keys are wanted from now on
        return Collected(keys, traced.grades.texts, traced.failures, traced.grades)

    @contextmanager
    def warm(self) -> Iterator[Collector]:
        """The same collector, whose teacher stays loaded from collection to collection until the end of the block."""
        with self._crew() as crew:
            other = copy(self)
            object.__setattr__(other, "crew", crew)
            yield other

    def _crew(self) -> AbstractContextManager[Crew]:
        again = self.contrast is not None
        return nullcontext(self.crew) if self.crew else self.engine.open(self.family.teacher, again=again)

    def _traced_by_all(self, store: Store, missing: dict[str, Request], company: list[Request], split: str) -> Traced:
        groups = [[request] for request in missing.values()]
        if self.policy is not None:  # what is written together is claimed together
            batches = batches_of(company, self.policy.batch_size)
            groups = [group for batch in batches if (group := [r for r in batch if r.key in missing])]
        with Presence(store.path) as own:
            leases = Leases(store, own, groups, self.patience, whole=not self.share)
            traced = self._trace(Unsaved(store, own), company, split, leases)
            leases.finish()
        return traced._replace(failures=[f for f in leases.failed.values() if f.key in missing])

    def present(self, split: str, count: int | None) -> list[str]:
        """Keys of the traces that are there already, in the order of the problems. Asks no teacher."""
        present = self.open().keys()
        return [key for key in self.keys(split, count) if key in present]

    def keys(self, split: str, count: int | None) -> list[str]:
        """Of all requests, in the order of the problems."""
        asked = (split, count, True)
        if asked not in self.known:
            self.known[asked] = [request.key for request in self.requests(split, count)]
        return self.known[asked]

    def requests(self, split: str, count: int | None, *, texts: bool = True) -> list[Request]:
        """Made once, as they take a while. texts: whether a teacher that only reads is given the dataset's solutions;
        False: others will write them.
        """
        asked = (split, count, texts)
        if asked not in self.asked:
            self.asked[asked] = self._requests(*asked)
        return self.asked[asked]

    def _requests(self, split: str, count: int | None, texts: bool) -> list[Request]:
        problems, given = self.check_count(split, count), texts and self.teacher.mode == "score" and self.policy is None
        prompts = [p for p in (self.teacher_prompt, self.contrast) if p is not None]
        shots = max([self.prompt.shots, *(p.shots_of(self.prompt) for p in prompts)])
        examples = self.dataset.problems("train")[: shots + 1] if shots else []
        maker = RequestMaker(
            prompt=self.prompt,
            own=self.own_prompt,
            contrast=self.contrast,
            tokenizer=self.student_tokenizer,
            family=self.family,
            reads=self.teacher.mode == "score",
            samples=self.samples,
            seed=self.seed,
            text_tokens=self.text_tokens,
        )
        return maker.of(problems, examples, given=given)

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

    def _path(self, origin: dict[str, Any]) -> Location:
        if self.store is not None:
            return location(self.store)
        digest = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()
        name = f"{origin['dataset']}-{origin['teacher'].get('model', 'teacher')}-{self.teacher.mode}".lower()
        return home() / "traces" / f"{re.sub(r'[^a-z0-9.]+', '-', name)}-{digest[:10]}"

    def _check_teacher(self) -> None:
        """Ids that mean one token to the teacher and another to the student would be silent nonsense."""
        if self.contrast is not None and self.teacher.mode != "score" and not isinstance(self.teacher, Opens):
            raise ValueError(
                f"contrast needs a teacher that reads given text, and {type(self.teacher).__name__} with "
                f"teacher.mode={self.teacher.mode} does not: set teacher.mode=score, teacher=hf, or contrast=null"
            )
        if self.family.bridge is not None or self.teacher.tokenizer in (None, self.tokenizer):
            return
        theirs = load_tokenizer(self.teacher.tokenizer, trust_remote_code=self.trust_remote_code)
        check_tokenizer({"tokenizer": tokenizer_fingerprint(theirs)}, self.student_tokenizer)

    def untraced(self, requests: list[Request]) -> list[Request]:
        present = self.open().keys()
        return [r for r in requests if r.key not in present]

    def unwritten(self, requests: list[Request]) -> list[Request]:
        """Those of which there is neither a trace nor a text that waits for the teacher."""
        texts = KeptTexts(local_folder(self.open().path)).read()
        return [r for r in self.untraced(requests) if r.key not in texts]

    def write(self, requests: list[Request]) -> None:
        """The policy's texts of those that are neither traced nor written; all of `requests` are written together."""
        assert self.policy is not None
        kept = KeptTexts(local_folder(self.open().path))
        self._tracing("train", quiet=True).write(self.policy, self.untraced(requests), requests, kept)

    def read(self, requests: list[Request]) -> list[Failure]:
        """Traces of texts that were written before. Of those that are there, only the company of others is read."""
        store, missing = self.open(), {r.key for r in self.untraced(requests)}
        asked = whole_batches(requests, missing, KeptTexts(local_folder(store.path)).read(), self.teacher)
        if not asked:
            return []
        with Presence(store.path) as own:
            return self._trace(Unsaved(store, own), requests, "train", all_at_once(asked)).failures

    def _tracing(self, split: str, *, quiet: bool) -> Tracing:
        return Tracing(policy=self.policy, grade=self._grader(split), quiet=quiet)

    def _trace(self, waiting: Unsaved, company: list[Request], split: str, work: Leases | Claim) -> Traced:
        """work: leases, where others may take part: until all of it is done; or what is this process's alone."""
        leases = work if isinstance(work, Leases) else None
        self._check_teacher()
        kept, bridge = KeptTexts(local_folder(waiting.store.path)), self.family.bridge
        before = 0 if bridge is None else bridge.bytes_by_kind.copy()
        with self._crew() as crew:
            tracing = self._tracing(split, quiet=leases is None)
            if isinstance(work, Leases):
                traces = until_all_is_done(tracing, crew, work, waiting, company, kept)
            else:
                traces = tracing.traces(crew, work, company, kept)
            traced = save_traces(traces, waiting, split, leases, crew)
        if bridge is not None and leases is not None:
            log.info("%s split: %s", split, bridge.told(before))
        kept.forget(waiting.store.keys())  # not those that the teacher failed on: they are to be read again
        return traced

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
