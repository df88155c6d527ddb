"""A response as the student's tokenizer cuts it, and as the teacher's does."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from ekd.outside import visible
from ekd.translate.spelling import spelling_of
from ekd.types import Trace


def both_readings(trace: Trace, tokenizer: Any, theirs: Any, most: int = 40) -> Text:
    """The beginning of a response as each side's tokenizer cuts it; the teacher may have written it otherwise."""
    student, teacher = spelling_of(tokenizer), spelling_of(theirs)
    text = student.spell([i for i in trace.response_ids.tolist() if student.text(i)])
    shown = Text()
    for who, side in (("student", student), ("teacher", teacher)):
        words = [side.texts[i].decode(errors="replace") for i in side.cut([text])[0]]
        more = "|..." if len(words) > most else ""
        shown.append(f"{who} ({len(words)} tokens): ", style="bold")
        shown.append(visible("|".join(words[:most]).replace("\n", "⏎")) + more + "\n")
    return shown
