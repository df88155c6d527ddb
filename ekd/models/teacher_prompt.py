"""What the teacher reads, where that is more, or less, than what the student reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from jinja2 import StrictUndefined, Template, TemplateError, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import PreTrainedTokenizerBase

from ekd.models.prompt import Prompt
from ekd.models.turn import Message
from ekd.types import Problem

PLAIN = "{{ question }}"  # the question as it is


@dataclass(frozen=True, kw_only=True)
class TeacherPrompt:
    """question: a Jinja template over the problem's id, question, answer and solution, put in the question's place; one
    that says nothing leaves the teacher the answer alone, after the token that begins a text. system, instruction,
    shots: in place of the prompt's own; None: the prompt's.

    Source: context distillation, Snell et al. 2022, arXiv 2209.15189; a teacher that sees the solution: arXiv
    2601.18734.
    """

    question: str
    system: str | None
    instruction: str | None
    shots: int | None

    def __post_init__(self) -> None:
        _ = self.template

    @cached_property
    def template(self) -> Template:
        try:
            return ImmutableSandboxedEnvironment(undefined=StrictUndefined).from_string(self.question)
        except TemplateError as error:
            raise ValueError(
                f"the question template {self.question!r} is no Jinja template ({error}); write e.g. "
                "'{{ question }} The answer is {{ answer }}.'"
            ) from error

    @property
    def same(self) -> bool:
        """Whether the teacher reads just what the student reads."""
        return self.question == PLAIN and (self.system, self.instruction, self.shots) == (None, None, None)

    def origin(self, prompt: Prompt) -> dict[str, object]:
        """What decides the words, as plain values."""
        return {"question": self.question, **asdict(self._own(prompt))}

    def shots_of(self, prompt: Prompt) -> int:
        """How many worked examples the teacher reads."""
        return self._own(prompt).shots

    def ids(
        self, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, problem: Problem, examples: Sequence[Problem]
    ) -> list[int]:
        """Token ids up to the place where the answer begins. Raises ValueError for what the problem does not have."""
        return self.ids_of_all(tokenizer, prompt, [problem], examples)[0]

    def ids_of_all(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Prompt,
        problems: Sequence[Problem],
        examples: Sequence[Problem],
    ) -> list[list[int]]:
        """`ids` of each problem."""
        return self._own(prompt).ids_of_all(tokenizer, [self._asked(problem) for problem in problems], examples)

    def messages(self, prompt: Prompt, problem: Problem, examples: Sequence[Problem]) -> list[Message]:
        """The same before any chat template."""
        return self._own(prompt).messages(self._asked(problem), examples)

    def _asked(self, problem: Problem) -> Problem:
        if not problem.question:
            raise ValueError(
                f"{problem.id} is plain text, to which nothing can be added for the teacher: set teacher_prompt=same "
                "contrast=null"
            )
        return problem._replace(question=self._render(problem))

    def _own(self, prompt: Prompt) -> Prompt:
        return replace(
            prompt,
            system=prompt.system if self.system is None else self.system,
            instruction=prompt.instruction if self.instruction is None else self.instruction,
            shots=prompt.shots if self.shots is None else self.shots,
        )

    def _render(self, problem: Problem) -> str:
        known = {name: value for name, value in problem._asdict().items() if value}
        try:
            return self.template.render(known)
        except UndefinedError as error:
            raise ValueError(
                f"the question template {self.question!r}: {error} for problem {problem.id}, which has "
                f"{', '.join(known)}; take a template without it, or a dataset that has it"
            ) from error
        except TemplateError as error:
            raise ValueError(f"the question template {self.question!r} cannot be filled in: {error}") from error


SAME = TeacherPrompt(question=PLAIN, system=None, instruction=None, shots=None)  # what the student reads
