"""Who answers sooner on this machine: transformers in this process, or llama.cpp's server.

    python scripts/bench_teachers.py

The embedded SmolLM2-135M three times: by `teacher=hf`, by llama.cpp from the same weights in float32, and by llama.cpp
from the 4 bits in which it comes (hf has no kernel for these: it dequantises once, when it loads). Three jobs on the
demo's problems: texts are written with the teacher's rows, worked solutions are read, and held-out problems are
answered greedily without rows. Loading is not counted, nor is what the first request costs. Rounds alternate; the table
has medians of seconds of the clock, so the machine has to be quiet.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter

from measuring import ROOT, circumstances, table

from ekd.cli.door import build
from ekd.engine.crew import opened
from ekd.session.notebook import compose
from ekd.types import Request, Teacher, Trace

ENGINES = {"hf": None, "llama.cpp, float32": "smollm2-f32", "llama.cpp, 4 bits": "smollm2"}
SHOTS = ["prompt.shots=2", "student.model=smollm2"]


@contextmanager
def served(model: str | None, threads: int) -> Iterator[str | None]:
    """Its address."""
    if model is None:
        yield None
        return
    command = [sys.executable, str(ROOT / "scripts" / "serve_gguf.py"), model, "--port", "0", "--threads", str(threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def words(url: str | None, group: str) -> list[str]:
    return [f"{group}=hf"] if url is None else [f"{group}=openai", f"{group}.endpoints=[{url}]"]


def asked(url: str | None, mode: str, problems: int, new: int) -> tuple[Teacher, list[Request]]:
    made = [*words(url, "teacher"), f"teacher.mode={mode}", f"teacher.max_new_tokens={new}", "teacher.temperature=0.7"]
    config = compose("dataset=arithmetic_small", *SHOTS, *made, command="trace")
    collector = build(config.data).collector
    return collector.family.teacher, collector.requests("train", problems)


def traced(teacher: Teacher, requests: list[Request]) -> tuple[float, int]:
    """Seconds, and tokens that came."""
    began = perf_counter()
    traces = [made for made in teacher.trace(requests) if isinstance(made, Trace)]
    assert len(traces) == len(requests)
    return perf_counter() - began, sum(len(trace.response_ids) for trace in traces)


def answered(url: str | None, problems: int, new: int) -> tuple[float, int, list[str]]:
    """Seconds at work, tokens, and the answers in the order of the problems."""
    with tempfile.TemporaryDirectory() as folder:
        asking = [*words(url, "generator"), f"benchmark.problems={problems}", f"benchmark.max_new_tokens={new}"]
        asking += ["dataset=arithmetic_small", "prompt.shots=2", "benchmark.temperature=0", f"out={folder}/out"]
        command = [sys.executable, "-m", "ekd.evaluate", *asking]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)})
        lines = (Path(folder) / "out" / "answers.jsonl").read_text("utf-8").splitlines()
    answers = sorted((json.loads(line) for line in lines), key=lambda answer: answer["problem_id"])
    seconds = sum(answer["seconds"] for answer in answers)
    return seconds, sum(answer["tokens"] for answer in answers), [answer["text"] for answer in answers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=96, help="of an answer, at most")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    options = parser.parse_args()
    print(circumstances("torch", "transformers", "xllamacpp"))
    rates: dict[tuple[str, str], list[float]] = {}
    said: dict[str, list[str]] = {}
    with ExitStack() as stack:
        urls = {name: stack.enter_context(served(model, options.threads)) for name, model in ENGINES.items()}
        for mode in ("generate", "score"):
            made = {name: asked(url, mode, options.problems, options.tokens) for name, url in urls.items()}
            with ExitStack() as warm:
                teachers = {name: warm.enter_context(opened(teacher)) for name, (teacher, _) in made.items()}
                for name, teacher in teachers.items():
                    traced(teacher, made[name][1][:1])
                for _ in range(options.rounds):
                    for name, teacher in teachers.items():
                        seconds, tokens = traced(teacher, made[name][1])
                        rates.setdefault((mode, name), []).append(tokens / seconds)
        for _ in range(options.rounds):
            for name, url in urls.items():
                seconds, tokens, said[name] = answered(url, options.problems, options.tokens)
                rates.setdefault(("answer", name), []).append(tokens / seconds)
    jobs = {"generate": "texts with rows", "score": "worked solutions read", "answer": "answers, greedy, no rows"}
    rows = []
    for job, what in jobs.items():
        found = [median(rates[job, name]) for name in ENGINES]
        rows.append([what, *(f"{rate:,.0f}" for rate in found), *(f"{rate / found[0]:.2f}" for rate in found[1:])])
    print(table(["response tokens a second", *ENGINES, "float32 / hf", "4 bits / hf"], rows))
    for name in list(ENGINES)[1:]:
        same = sum(mine == theirs for mine, theirs in zip(said["hf"], said[name], strict=True))
        print(f"{name}: {same} of {len(said['hf'])} greedy answers are hf's to the last character")


if __name__ == "__main__":
    main()
