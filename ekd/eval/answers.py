"""Answers on disk: one line each, written as they come; whatever a kill left behind, the next call goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from filelock import FileLock

from ekd.files import acquire, cut_torn, home, whole_lines
from ekd.models.repeats import period

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Key = tuple[str, int]  # (problem_id, sample)
LONGEST = 4  # tokens that one character may be spread over


class Answer(NamedTuple):
    problem_id: str
    sample: int
    status: str  # correct, wrong or unparseable
    extracted: str  # what was read as the final answer
    reference: str
    finish: str  # stop or length
    endless: bool  # cut off while it repeated itself
    tokens: int  # the end token included
    seconds: float  # its share of the time that the machine was busy
    prompt: str
    text: str
    pieces: Sequence[str] = ()  # the text, token by token, where the entropy is known
    entropy: Sequence[float] = ()  # nats, of the model's distribution before each token


class AnswerFile:
    """A JSONL file of answers that one process at a time appends to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = FileLock(path.with_name(f".{path.stem}.lock"))

    def __enter__(self) -> AnswerFile:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        acquire(self.lock, f"writes {self.path}")
        cut_torn(self.path)
        self.answers = read_answers(self.path)
        self.file = self.path.open("a")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.file.close()
        self.lock.release()

    def add(self, answer: Answer) -> None:
        """An answer that is there already stays as it is."""
        key = (answer.problem_id, answer.sample)
        if key not in self.answers:
            self.file.write(json.dumps(answer._asdict()) + "\n")
            self.file.flush()
            self.answers[key] = answer


def kept_file(identity: str) -> Path:
    """The answers of a model that does not change, kept for later runs; where version 0.1 put them, if it did."""
    old = home() / "exams" / f"{identity}.jsonl"
    return old if old.exists() else home() / "benchmark" / old.name


def keep_beside(run: Path, found: Mapping[str, Path]) -> None:
    """Copies answers that were kept for all runs into this run's folder, for its page: answers_NAME.jsonl."""
    for name, path in found.items():
        shutil.copyfile(path, run / f"answers_{name}.jsonl")


def read_answers(path: Path) -> dict[Key, Answer]:
    """Complete lines only. Raises ValueError, with the line's number, for one that is not an answer."""
    answers: dict[Key, Answer] = {}
    for number, line in whole_lines(path):
        try:
            answer = Answer(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number} is not an answer; remove that line (it is then asked again), or the file"
            ) from error
        answers.setdefault((answer.problem_id, answer.sample), answer)
    return answers


class Spelt:
    """What each id adds to a text, as ids come; "" for a special token, and for all but the last id of a character."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.before: list[int] = []
        self.group: list[int] = []  # of a character that is not whole yet
        self.half = ""

    def add(self, token: int) -> str:
        self.group.append(token)
        known = str(self.tokenizer.decode(self.before, skip_special_tokens=True))
        added = str(self.tokenizer.decode([*self.before, *self.group], skip_special_tokens=True))[len(known) :]
        if added.endswith("\ufffd") and len(self.group) <= LONGEST:
            self.half = added
            return ""
        self.before, self.group, self.half = self.group, [], ""
        return added


def pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """See `Spelt`; half a character at the end of the text is the last id's."""
    spelt = Spelt(tokenizer)
    found = [spelt.add(i) for i in ids]
    if spelt.half:
        found[-1] = spelt.half
    return found


def repeats(text: str) -> bool:
    """Whether the text ends in one piece said again and again, at least 40 characters in all (`ekd.models.repeats`)."""
    return period(text, least=40) > 0
