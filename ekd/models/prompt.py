"""How a problem is put to a model: the same for teacher, student and benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ekd.models.turn import Message, answer_text, end_of_turn, first_token, render_chat
from ekd.types import Problem

LAST = 16  # ids of a prompt: enough to see whether it ends in an open thought


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, without what a tokenizer would put around it."""
    if not texts:
        return []
    asked: list[list[int]] = tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False
    )["input_ids"]
    return asked


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """system: the system message, "" for none. instruction: appended to every question, "" for none.

    shots: worked examples shown before the question. thinking: passed to chat templates that know `enable_thinking`
    (Qwen3); null leaves the template's own default.
    """

    system: str
    instruction: str
    shots: int
    thinking: bool | None

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise ValueError(f"prompt.shots is 0 or more, not {self.shots}")

    def ids(self, tokenizer: PreTrainedTokenizerBase, problem: Problem, examples: Sequence[Problem]) -> list[int]:
        """Token ids up to the place where the answer begins. examples: solved problems; the first `shots` are used.

        Plain text (a problem without a question) follows the token that begins a text, and no template.
        """
        return self.ids_of_all(tokenizer, [problem], examples)[0]

    def ids_of_all(
        self, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], examples: Sequence[Problem]
    ) -> list[list[int]]:
        """`ids` of each problem. Together, because a tokenizer then works on all cores."""
        asked = [self.messages(problem, examples) for problem in problems if problem.question]
        found = iter(self.ids_of_chats(tokenizer, asked) if asked else [])  # plain text needs no template
        return [next(found) if problem.question else [first_token(tokenizer)] for problem in problems]

    def ids_of(self, tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> list[int]:
        """The same of a conversation. Raises ValueError for a tokenizer without a template, or one that refuses."""
        return self.ids_of_chats(tokenizer, [messages])[0]

    def ids_of_chats(self, tokenizer: PreTrainedTokenizerBase, chats: Sequence[list[Message]]) -> list[list[int]]:
        """`ids_of` each."""
        if tokenizer.chat_template is None:
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template: it is a base model; "
                "take the -Instruct version, or give the tokenizer a chat_template"
            )
        return token_ids(tokenizer, [self._rendered(tokenizer, messages) for messages in chats])

    def answer_ids(self, tokenizer: PreTrainedTokenizerBase, solution: str, prompt_ids: Sequence[int]) -> list[int]:
        """Token ids of a solution as the answer that prompt_ids leave off at, with the token that ends it."""
        return self.answers_ids(tokenizer, [solution], [prompt_ids])[0]

    def answers_ids(
        self, tokenizer: PreTrainedTokenizerBase, solutions: Sequence[str], prompts: Sequence[Sequence[int]]
    ) -> list[list[int]]:
        """`answer_ids` of each solution."""
        before = [str(tokenizer.decode(list(ids[-LAST:]))) for ids in prompts]
        texts, end = list(map(answer_text, solutions, before)), end_of_turn(tokenizer)
        return [[*ids, end] for ids in token_ids(tokenizer, texts)]

    def _rendered(self, tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> str:
        """Up to where the answer begins. Raises ValueError for a template that refuses the messages."""
        try:
            text = render_chat(tokenizer, messages, answer=True, thinking=self.thinking)
        except TemplateError as error:
            if not self.system:
                raise ValueError(
                    f"the chat template of {tokenizer.name_or_path!r} refuses what it is asked ({error}): give the "
                    "tokenizer another chat_template"
                ) from error
            text = ""
        if self.system.strip() not in text:
            raise ValueError(
                f'the chat template of {tokenizer.name_or_path!r} takes no system message: set prompt.system="" '
                "(what it says can go into prompt.instruction)"
            )
        return text

    def messages(self, problem: Problem, examples: Sequence[Problem]) -> list[Message]:
        solved = [e for e in examples if e.solution and e.id != problem.id][: self.shots]
        if len(solved) < self.shots:
            raise ValueError(
                f"prompt.shots={self.shots}, but the dataset's train split gives {len(solved)} problems with a worked "
                "solution; set prompt.shots=0"
            )
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for shot in solved:
            messages += [self._ask(shot), {"role": "assistant", "content": shot.solution}]
        return [*messages, self._ask(problem)]

    def _ask(self, problem: Problem) -> dict[str, str]:
        return {"role": "user", "content": f"{problem.question}\n{self.instruction}".strip()}
