"""The model card of an exported student: where it comes from, how it was trained, how good it is."""

from __future__ import annotations

import json
from typing import Any

from ekd.report.page import command
from ekd.report.run import accuracy

CARD = """---
base_model: {base}
library_name: transformers
pipeline_tag: text-generation
tags: [knowledge-distillation, ekd]
---

# {name}

`{base}`, distilled from `{teacher}` with ekd: the teacher {did}, and the student learned from the tokens that
`{selector}` chose by `{signal}`.

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

```json
{config}
```
"""


def card(name: str, made: dict[str, Any]) -> str:
    """made: a run's metrics.json."""
    config, figures = made["config"], made["figures"]
    problems = f"problems of `{_kind(config['dataset'])}`"
    shown = {group: config[group] for group in ("teacher", "signal", "selector", "loss", "student")}
    shown["teacher"] = {k: v for k, v in config["teacher"].items() if k not in ("endpoints", "api_key_env")}
    return CARD.format(
        name=name,
        base=config["student"]["model"],
        teacher=config["teacher"].get("model") or "the model that a server served",
        did=f"read the solutions of {problems}" if config["teacher"]["mode"] == "score" else f"solved {problems}",
        selector=_kind(config["selector"]),
        signal=_kind(config["signal"]),
        rows="\n".join(f"| {label} | {value} |" for label, value in _rows(config, figures)),
        prompt=_prompt(config["prompt"]),
        command=command(made),
        ekd=made["ekd"],
        commit=made["commit"] or "unknown",
        changed=", with changes" if made["changed"] else "",
        versions=", ".join(f"{package} {number}" for package, number in made["versions"].items()),
        config=json.dumps(shown, indent=1),
    )


def _rows(config: dict[str, Any], figures: dict[str, Any]) -> list[tuple[str, str]]:
    before, after, train = figures["before"], figures["after"], figures["train"]
    start = f"{before['val/kl']:.4f} → " if before else ""
    rows = [
        ("loss", _kind(config["loss"])),
        ("held-out KL to the teacher", f"{start}{after['val/kl']:.4f}"),
        ("top-1 agreement with the teacher", f"{after['val/agreement']:.4f}"),
        ("tokens learned from", f"{train['supervised_tokens']:,} ({100 * train['selected']:.1f}% of those seen)"),
    ]
    return rows + [(f"accuracy, {who}", accuracy(result)) for who, result in figures["exams"].items()]


def _kind(config: dict[str, Any]) -> str:
    return str(config["_target_"]).rpartition(".")[2]


def _prompt(prompt: dict[str, Any]) -> str:
    system = f"system message {prompt['system']!r}; " if prompt["system"] else ""
    return f"{system}after each question {prompt['instruction']!r}; {prompt['shots']} worked examples before it."
