"""Which parts go together: what cannot work is refused before anything is loaded or traced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ekd.data.cached import TraceData, norm_column
from ekd.data.mix import Stores
from ekd.data.trace_filter import TopSamples
from ekd.distill.student import Student
from ekd.types import NeedsAgreement, NeedsContrast, NeedsDensity, NeedsOwnText, Signal


@runtime_checkable
class Tempered(Protocol):
    """A teacher that can record its log-normaliser at temperatures other than 1."""

    temperatures: Sequence[float]


@runtime_checkable
class Drawn(Protocol):
    """A teacher that may give counts of draws in place of its most likely ids."""

    draws: int  # 0: it does not


def check_compatibility(data: TraceData, student: Student) -> None:
    """Raises ValueError, one sentence that says what would work."""
    teacher = data.collector.teacher
    temperature = student.objective.temperature
    if data.temperature != temperature:
        raise ValueError(
            f"data.temperature={data.temperature} and student.temperature={temperature} are one setting: leave "
            "data.temperature=${student.temperature}"
        )
    if isinstance(teacher, Drawn) and teacher.draws:
        check_drawn(teacher.draws, data, student)
    check_texts(data, student)
    student.spec.check_layers()
    norm_column(teacher.temperatures if isinstance(teacher, Tempered) else [], float(temperature))


def check_texts(data: TraceData, student: Student) -> None:
    """Who has to have written the texts, and how often they have to have been read."""
    own = data.source is not None or data.collector.policy is not None
    if isinstance(student.loss, NeedsOwnText) and student.loss.needs_own_text and not own:
        raise ValueError(
            f"loss={student.loss} prices tokens that the student itself wrote, and these texts are others': set "
            "source=rounds, source=mix or policy=student, or take loss=reverse_kl"
        )
    read_once = data.collector.contrast is None and not isinstance(data.source, Stores)
    for signal in student.signals:
        if isinstance(signal, NeedsContrast) and signal.needs_contrast and read_once:
            raise ValueError(
                f"signal={signal} compares two readings and these traces have one: trace with contrast=no_prompt, "
                "with_answer, with_solution, paraphrase or text"
            )
    check_teachers(data, student)


def check_teachers(data: TraceData, student: Student) -> None:
    """A signal that compares teachers has several in what is trained on; samples are chosen in the traces of one."""
    several = isinstance(data.source, Stores) and data.source.mean
    for name, signal in scored_by(data, student).items():
        there = several and name != "data.samples.by"
        if isinstance(signal, NeedsAgreement) and signal.needs_agreement and not there:
            raise ValueError(
                f"{name}={signal} compares several teachers of one text and these traces have one: train with "
                "source=stores source.paths=[A,B] source.mean=true, of teachers that read the same texts, or take "
                "another signal"
            )


def scored_by(data: TraceData, student: Student) -> dict[str, Signal | None]:
    """The signals by which rows, and whole traces, are chosen, by what they are called."""
    by = data.samples.by if isinstance(data.samples, TopSamples) else None
    return dict(zip(("signal", "gate.signal"), student.signals, strict=False)) | {"data.samples.by": by}


def check_drawn(draws: int, data: TraceData, student: Student) -> None:
    """Traces that are counts know p only where something was drawn, on average, and only at temperature 1."""
    said = f"teacher.draws={draws}"
    if student.objective.temperature != 1:
        raise ValueError(
            f"{said} counts draws at temperature 1 and knows no other: set student.temperature=1, or teacher.draws=0 "
            f"teacher.temperatures=[{student.objective.temperature}]"
        )
    if student.objective.tail != "bucket":
        raise ValueError(
            f"{said} has no tail, so student.tail={student.objective.tail} would change nothing or undo what draws "
            "are for: set student.tail=bucket, or teacher.draws=0"
        )
    for name, signal in scored_by(data, student).items():
        if isinstance(signal, NeedsDensity) and signal.needs_density:
            raise ValueError(
                f"{name}={signal} needs the teacher's probability of every token, and {said} counts 0 for what was "
                "not drawn: take a signal such as student_entropy, teacher_entropy or kl, or set teacher.draws=0"
            )
    loss = student.loss
    if isinstance(loss, NeedsDensity) and loss.needs_density:
        raise ValueError(
            f"loss={loss} holds KL(student, teacher), which is infinite wherever {said} counts 0: take "
            "loss=forward_kl (the one that draws leave unbiased), jsd, skew_kl or tvd, or set teacher.draws=0"
        )
