"""How a problem is put to a model: the same for teacher, student and exam."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from ekd.types import Problem


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
        if not problem.question:
            first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
            return [first]
        if tokenizer.chat_template is None:
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template: it is a base model; "
                "take the -Instruct version, or give the tokenizer a chat_template"
            )
        extra: dict[str, Any] = {} if self.thinking is None else {"enable_thinking": self.thinking}
        ids: Any = tokenizer.apply_chat_template(
            self._messages(problem, examples), add_generation_prompt=True, return_dict=False, **extra
        )
        return list(ids)

    def _messages(self, problem: Problem, examples: Sequence[Problem]) -> list[dict[str, str]]:
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
