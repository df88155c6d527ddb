"""The model card of an exported student: where it comes from, how it was trained, how good it is."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import yaml

from ekd.distill.provenance import command, start_of
from ekd.eval.metrics import accuracy

CARD = """---
{front}---

# {name}

Made from {base}, distilled from {teacher} with ekd: the teacher {did}, and the student learned
from the tokens that {selector} chose by {signal}.

| | |
|---|---|
{rows}

## How to ask it

As it was trained: {prompt}

```python
from transformers import pipeline

ask = pipeline("text-generation", "{name}")
print(ask([{{"role": "user", "content": "..."}}], max_new_tokens=256)[0]["generated_text"][-1]["content"])
```

## How it was made

{command}

ekd {ekd}, commit {commit}{changed}; {versions}.

{config}
"""


def card(name: str, made: dict[str, Any]) -> str:
    """made: a run's metrics.json."""
    config = made["config"]
    problems = f"problems of {code_span(_kind(config['dataset']))}"
    shown = {group: config[group] for group in ("teacher", "signal", "selector", "loss", "student")}
    shown["teacher"] = {k: v for k, v in config["teacher"].items() if k not in ("endpoints", "api_key_env")}
    base = " ".join(str(config["student"]["model"]).split())
    front = {"base_model": base, "library_name": "transformers", "pipeline_tag": "text-generation"}
    return CARD.format(
        front=yaml.safe_dump(front | {"tags": ["knowledge-distillation", "ekd"]}, sort_keys=False, width=math.inf),
        name=name,
        base=code_span(base),
        teacher=code_span(config["teacher"].get("model") or "the model that a server served"),
        did=f"read the solutions of {problems}" if config["teacher"]["mode"] == "score" else f"solved {problems}",
        selector=code_span(_kind(config["selector"])),
        signal=code_span(_kind(config["signal"])),
        rows="\n".join(f"| {cell(label)} | {cell(value)} |" for label, value in _rows(made)),
        prompt=_prompt(config["prompt"]),
        command=fenced(command(made)),
        ekd=code_span(made["ekd"]),
        commit=code_span(made["commit"] or "unknown"),
        changed=", with changes" if made["changed"] else "",
        versions=code_span(", ".join(f"{package} {number}" for package, number in made["versions"].items())),
        config=fenced(json.dumps(shown, indent=1), "json"),
    )


def code_span(value: Any) -> str:
    """Somebody's word as it is, in one line of Markdown, where nothing in it has a meaning."""
    text = " ".join(str(value).split())
    marks = "`" * (1 + _longest(text))
    room = " " if marks != "`" else ""
    return f"{marks}{room}{text}{room}{marks}"


def cell(value: str) -> str:
    """In a table, whose cells end at any bar, and where a tag would be one."""
    return " ".join(value.split()).replace("|", r"\|").replace("<", "&lt;").replace("`", r"\`")


def fenced(text: str, language: str = "") -> str:
    marks = "`" * max(3, 1 + _longest(text))
    return f"{marks}{language}\n{text}\n{marks}"


def _longest(text: str) -> int:
    """Of the runs of backticks."""
    return max(map(len, re.findall("`+", text)), default=0)


def _rows(made: dict[str, Any]) -> list[tuple[str, str]]:
    config, figures = made["config"], made["figures"]
    before, after, train = figures["before"], figures["after"], figures["train"]
    start = f"{before['val/kl']:.4f} → " if before else ""
    rows = [
        ("loss", _kind(config["loss"])),
        ("held-out KL to the teacher", f"{start}{after['val/kl']:.4f}"),
        ("top-1 agreement with the teacher", f"{after['val/agreement']:.4f}"),
        ("tokens learned from", f"{train['supervised_tokens']:,} ({100 * train['selected']:.1f}% of those seen)"),
    ]
    if start := start_of(made):
        rows.append(("started from", start))
    return rows + [(f"accuracy, {who}", accuracy(result)) for who, result in figures["benchmark"].items()]


def _kind(config: dict[str, Any]) -> str:
    return str(config["_target_"]).rpartition(".")[2]


def _prompt(prompt: dict[str, Any]) -> str:
    system = f"system message {code_span(repr(prompt['system']))}; " if prompt["system"] else ""
    return (
        f"{system}after each question {code_span(repr(prompt['instruction']))}; {int(prompt['shots'])} worked examples."
    )
