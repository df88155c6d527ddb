"""What the student wrote before and after training, beside the teacher: problem by problem, token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ekd.eval.answers import Answer, read_answers
from ekd.report.answers_sheet import answers_sheet

COLUMNS = (  # file of a run's folder, and who wrote it
    ("answers_before.jsonl", "student before"),
    ("answers.jsonl", "student after"),
    ("answers_teacher.jsonl", "teacher"),
)
KINDS = ("gained", "lost", "kept", "right", "wrong", "blank")  # in the order in which they are shown


def answers_view(run: Path) -> dict[str, Any] | None:
    """All answers, those that training changed for the better first; None where the run has no benchmark."""
    known = {who: read_answers(run / file) for file, who in COLUMNS}
    after, before = known["student after"], known["student before"]
    if not after:
        return None
    solved = {key for key, answer in known["teacher"].items() if answer.status == "correct"}

    def place(key: tuple[str, int]) -> tuple[int, bool, bool]:
        return KINDS.index(kind(after[key], before.get(key))), key not in solved, not after[key].extracted

    return answers_sheet({who: answers for who, answers in known.items() if answers}, sorted(after, key=place))


def kind(after: Answer, before: Answer | None) -> str:
    right = after.status == "correct"
    if before is not None and (right or before.status == "correct"):
        return {(True, True): "kept", (True, False): "gained"}.get((right, before.status == "correct"), "lost")
    return "right" if right else "wrong" if after.status == "wrong" else "blank"
