"""What the student wrote before and after training, beside the teacher: problem by problem, token by token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ekd.eval.answers import Answer, Key, read_answers

COLUMNS = (  # file of a run's folder, and who wrote it
    ("answers_before.jsonl", "student before"),
    ("answers.jsonl", "student after"),
    ("answers_teacher.jsonl", "teacher"),
)
KINDS = {  # in the order in which they are shown
    "gained": "solved now, not before",
    "lost": "solved before, not now",
    "kept": "solved now and before",
    "right": "solved",
    "wrong": "answered wrongly",
    "blank": "no answer found",
}
VERDICTS = {"correct": "right", "wrong": "wrong"}
SHADED = 60  # problems whose answers are shown token by token; more would make a page of many megabytes
DARKEST = 2.0  # nats of entropy, from where on a token is shaded as darkly as can be


def answers_view(run: Path) -> dict[str, Any] | None:
    """All answers, those that training changed for the better first; None where the run has no benchmark."""
    known = {who: read_answers(run / file) for file, who in COLUMNS}
    after = known["student after"]
    if not after:
        return None
    kinds = {key: kind(answer, known["student before"].get(key)) for key, answer in after.items()}
    solved = {key for key, answer in known["teacher"].items() if answer.status == "correct"}
    ordered = sorted(
        after, key=lambda key: (list(KINDS).index(kinds[key]), key not in solved, not after[key].extracted)
    )
    counts = Counter(kinds.values())
    return {
        "filters": [
            ("", f"all {len(after)}"),
            *((k, f"{told}: {counts[k]}") for k, told in KINDS.items() if counts[k]),
        ],
        "note": note(known.values()),
        "problems": [
            problem(
                key, kinds[key], {who: answers[key] for who, answers in known.items() if key in answers}, at < SHADED
            )
            for at, key in enumerate(ordered)
        ],
    }


def kind(after: Answer, before: Answer | None) -> str:
    right = after.status == "correct"
    if before is not None and (right or before.status == "correct"):
        return {(True, True): "kept", (True, False): "gained"}.get((right, before.status == "correct"), "lost")
    return "right" if right else "wrong" if after.status == "wrong" else "blank"


def note(known: Iterable[Mapping[Key, Answer]]) -> str:
    shaded = any(answer.entropy for answers in known for answer in answers.values())
    return "The darker a token, the less sure its writer was of it (entropy; hover for nats)." if shaded else ""


def problem(key: Key, kind: str, by: Mapping[str, Answer], shaded: bool) -> dict[str, Any]:
    one = by["student after"]
    return {
        "name": key[0] + (f", answer {key[1] + 1}" if key[1] else ""),
        "kind": kind,
        "told": KINDS[kind],
        "reference": one.reference,
        "question": last_user_turn(one.prompt),
        "columns": [column(who, answer, shaded) for who, answer in by.items()],
    }


def column(who: str, answer: Answer, shaded: bool) -> dict[str, Any]:
    said = f"said {answer.extracted}; " if answer.extracted else ""
    cut = ", repeats itself without end" if answer.endless else ", cut off" if answer.finish == "length" else ""
    return {
        "who": who,
        "verdict": VERDICTS.get(answer.status, "no answer found"),
        "right": answer.status == "correct",
        "detail": f"{said}{answer.tokens} tokens{cut}",
        "text": answer.text.strip(),
        "tokens": tokens(answer) if shaded else [],
        "folded": answer.endless or not answer.text.strip(),
    }


def tokens(answer: Answer) -> list[tuple[str, int, str]]:
    """Text, darkness in percent and nats of each token that adds to the text."""
    beside = zip(answer.pieces, answer.entropy, strict=bool(answer.pieces))
    return [(piece, round(100 * min(h / DARKEST, 1)), f"{h:.2f}") for piece, h in beside if piece]


def last_user_turn(prompt: str) -> str:
    """The last turn of the user, where the marks of a chat template show it; else the whole prompt."""
    turn = prompt.rpartition("<|im_start|>user\n")[2]
    return turn.partition("<|im_end|>")[0].strip()
