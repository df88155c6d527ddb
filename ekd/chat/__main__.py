"""python -m ekd.chat run=RUN: talk to a run's student; beside=true: its teacher answers beside it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import rich
from omegaconf import DictConfig, OmegaConf

from ekd.chat.speakers import Conversation, ModelSpeaker, Speaker, TeacherSpeaker
from ekd.chat.talk import questions, talk
from ekd.cli.door import build, door
from ekd.evaluate import adopt

SAMPLING = ("temperature", "top_p", "max_new_tokens")


def main(config: DictConfig) -> int:
    from ekd.distill.fence import checked_part
    from ekd.models.load import load_tokenizer

    if config.run is None:
        raise ValueError("give run=RUN, the folder of a finished training run: its student is who you talk to")
    trained = adopt(config, "prompt")
    prompt, sampling = build(config.prompt), {name: config[name] for name in SAMPLING}
    if prompt.shots or config.beside:
        decided = {"api_key_env": config.api_key_env, "trust_remote_code": config.student.trust_remote_code}
        collector = build(OmegaConf.create(checked_part(trained, "data.collector", decided=decided)))
    examples = collector.dataset.problems("train")[: prompt.shots + 1] if prompt.shots else []
    student = ModelSpeaker(
        name="student",
        model=build(config.loader).load(),
        tokenizer=load_tokenizer(config.student.model, trust_remote_code=config.student.trust_remote_code),
        prompt=prompt,
        sampling=sampling,
        conversation=Conversation(turn=partial(prompt.messages, examples=examples)),
    )
    with ExitStack() as stack:
        speakers: Sequence[Speaker] = [student]
        if config.beside:
            speakers = [student, teacher_speaker(collector, prompt, sampling, stack)]
        console = rich.get_console()
        talk(speakers, questions(console), console, config.seed)
    return 0


def teacher_speaker(collector: Any, prompt: Any, sampling: dict[str, Any], stack: ExitStack) -> TeacherSpeaker:
    """The run's teacher, kept warm. It reads what it read when it taught: its worked examples, its system message."""
    from ekd.models.teacher_prompt import SAME
    from ekd.types import Opens

    family = collector.family
    # it answers in its own words, not in their translation, where its tokenizer is known: as in the benchmark
    teacher, tokenizer = (
        (family.teacher, collector.student_tokenizer)
        if family.tokenizer is None
        else (collector.teacher, family.tokenizer)
    )
    if lacking := sorted({"mode", *sampling} - vars(teacher).keys()):
        raise ValueError(
            f"{type(teacher).__name__} cannot be talked to (it has no {', '.join(lacking)}): set beside=false"
        )
    told = replace(teacher, mode="generate", **sampling)
    reads = collector.own_prompt or SAME
    shots = reads.shots_of(prompt)
    examples = collector.dataset.problems("train")[: shots + 1] if shots else []
    return TeacherSpeaker(
        name="teacher",
        teacher=stack.enter_context(told.open()) if isinstance(told, Opens) else told,
        tokenizer=tokenizer,
        prompt=prompt,
        conversation=Conversation(turn=partial(reads.messages, prompt, examples=examples)),
    )


if __name__ == "__main__":
    door("chat", main)
