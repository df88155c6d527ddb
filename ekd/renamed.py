"""What earlier versions called things: their runs are still read, and a word of theirs is answered with the new one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TEACHERS = ("teacher", "data.collector.teacher", "generator")
# The whole path of a key in version 0.1 -> what its last part is called now. What lies below goes along.
KEYS = {
    "exam": "benchmark",
    "judge": "baselines",
    "callback.exam": "benchmark",
    "callback.exam.exam": "benchmark",
    "student.hard_rows": "unmatched",
    **{f"{teacher}.max_hard": "max_unmatched" for teacher in TEACHERS},
}
CHOICES = {("callback", "exam"): "benchmark", ("callback", "exam_early"): "benchmark_early"}
COMMANDS = {"yardstick": "perplexity"}  # of ekd.evaluate
FIGURES = {"exams": "benchmark"}
ADDED = {("data", "collector"): {"text_tokens": 1000}}  # what a constructor asks for since, as conf/ has it
CLASSES = {
    "ekd.collect.Collector": "ekd.data.collect.Collector",
    "ekd.data.TraceData": "ekd.data.cached.TraceData",
    "ekd.exam.Exam": "ekd.eval.benchmark.Benchmark",
    "ekd.interrupt.Interrupt": "ekd.distill.interrupt.Interrupt",
    "ekd.prompt.Prompt": "ekd.models.prompt.Prompt",
    "ekd.student.Student": "ekd.distill.make_student.make_student",
    "ekd.distill.student.Student": "ekd.distill.make_student.make_student",
}


def current_key(key: str) -> str:
    """exam.problems -> benchmark.problems; a key that kept its name as it is."""
    parts = key.split(".")
    return ".".join(KEYS.get(".".join(parts[: n + 1]), part) for n, part in enumerate(parts))


def current_value(key: str, value: Any) -> Any:
    """What a `_target_` of before is now; any other value as it is."""
    return CLASSES.get(value, value) if key.endswith("_target_") and isinstance(value, str) else value


def current_word(word: str) -> str:
    """A word of the command line: +exam.problems=4, callback=exam, exam/dataset@exam=aime, yardstick."""
    key, given, value = word.partition("=")
    if not given:
        return COMMANDS.get(word, word)
    sign = key[: len(key) - len(key.lstrip("+~"))]
    places = [current_key(place.replace("/", ".")) for place in key[len(sign) :].split("@")]
    group = key[len(sign) :].partition("@")[0]
    if "/" in group:
        places[0] = places[0].replace(".", "/")
    chosen = ",".join(CHOICES.get((group, one), one) for one in value.split(","))
    return f"{sign}{'@'.join(places)}={chosen}"


def current_run(made: Mapping[str, Any]) -> dict[str, Any]:
    """A run's run.json or metrics.json, whichever version wrote it, with the names of today."""
    parts = {"config": KEYS, "figures": FIGURES}
    found = {k: _moved(v, parts[k]) if k in parts and isinstance(v, Mapping) else v for k, v in made.items()}
    for path, values in ADDED.items():
        node = found.get("config")
        for name in path:
            node = node.get(name) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node |= values | node
    return found


def _moved(node: Mapping[str, Any], names: Mapping[str, str], above: str = "") -> dict[str, Any]:
    found = {}
    for key, value in node.items():
        path = f"{above}{key}"
        inner = _moved(value, names, f"{path}.") if isinstance(value, Mapping) else current_value(key, value)
        found[names.get(path, key)] = inner
    return found
