"""What the prompt has to do with a token: its probability under the teacher's prompt against a second one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ekd.signal.view import log_p
from ekd.types import Rows


@dataclass(frozen=True, kw_only=True)
class PromptGap:
    """Needs traces with a second reading (contrast=no_prompt, with_answer ...). absolute: its size, whatever its sign.

        ln p_t(y | prompt) - ln p_t(y | second prompt),  0 where the second reading says nothing of the token

    Source: the prompt contrasts of SA-OPD (arXiv 2608.03632), CROP (arXiv 2608.13387) and Purified OPSD (arXiv
    2607.02234), which weigh by it in ways of their own.
    """

    needs_student: ClassVar[bool] = False
    needs_density: ClassVar[bool] = True
    needs_contrast: ClassVar[bool] = True
    absolute: bool

    def __call__(self, rows: Rows) -> Tensor:
        """-> (R,) nats."""
        if rows.contrast is None:
            raise ValueError(
                "signal=prompt_gap compares two readings and these traces have one: trace with contrast=no_prompt, "
                "with_answer, with_solution, paraphrase or text"
            )
        gap = (log_p(rows)[:, 0] - rows.contrast).nan_to_num(0.0)
        return gap.abs() if self.absolute else gap
