"""What a hint does to a teacher that reads given solutions. `python scripts/bench_hints.py --problems 64`

The same worked solutions are read under each teacher_prompt; a table gives the mean ln p of the tokens that say the
answer (where it is worked out, and in the box), and of all tokens. A wrong hint is the answer of another problem.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ekd.cli.door import CONF, register
from ekd.data.collect import Collector
from ekd.types import Problem, Trace

WRONG = r"{{ question }}\n\n(The final answer is {{ (answer | int) + 7 }}.)"
PROMPTS = {
    "`same`": ["teacher_prompt=same"],
    "`with_answer`": ["teacher_prompt=with_answer"],
    "`with_solution`": ["teacher_prompt=with_solution"],
    "`text`, a wrong answer (7 more)": ["teacher_prompt=text", f'teacher_prompt.question="{WRONG}"'],
    "`text`, nothing added": ["teacher_prompt=text", 'teacher_prompt.question="{{ question }}"'],
}


class Said(NamedTuple):
    first: list[float]  # ln p of the tokens in which the answer is worked out
    boxed: list[float]  # ... and in which it stands in the box
    every: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--model", default="smollm2", help="teacher, and whose tokenizer is used")
    parser.add_argument("--shots", type=int, default=2, help="worked examples before each question")
    chosen = parser.parse_args()
    register()
    print("| `teacher_prompt` | worked out | in the box | every token |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name, words in PROMPTS.items():
            made = collector(words, chosen, Path(folder) / str(len(name)))
            found = measure(made, chosen.problems)
            means = " | ".join(f"{np.mean(part):.3f}" for part in found)
            print(f"| {name} | {means} |", flush=True)


def collector(words: list[str], chosen: argparse.Namespace, store: Path) -> Collector:
    common = ["dataset=arithmetic_small", f"prompt.shots={chosen.shots}", f"data.collector.store={store}"]
    common += [f"teacher.model={chosen.model}", f"student.model={chosen.model}", "teacher.mode=score"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("trace", [*common, *words])
    OmegaConf.resolve(config.data)
    made: Collector = instantiate(config.data, _convert_="all").collector
    return made


def measure(made: Collector, count: int) -> Said:
    keys = made.collect("train", count).keys
    problems = {problem.id: problem for problem in made.dataset.problems("train")}
    store, said = made.open(), Said([], [], [])
    decode: Callable[[list[int]], str] = made.student_tokenizer.decode  # type: ignore[assignment]
    for trace in map(store.__getitem__, keys):
        log_p = trace.logprobs[np.cumsum(trace.counts) - trace.counts]
        first, boxed = places(trace, problems[trace.problem_id], decode)
        said.first.append(float(log_p[first].sum()))
        said.boxed.append(float(log_p[boxed].sum()))
        said.every.append(float(log_p.mean()))
    return said


def places(trace: Trace, problem: Problem, decode: Callable[[list[int]], str]) -> tuple[list[int], list[int]]:
    """Rows whose tokens spell the answer, where it is worked out ("19 + 17 = 36") and where it stands in the box."""
    ids = trace.response_ids.tolist()
    ends = [len(decode(ids[: n + 1])) for n in range(len(ids))]
    text, out = decode(ids), []
    box = text.rindex("\\boxed{") + len("\\boxed{")
    for begin in (text.index(f"= {problem.answer}") + 2, text.index(problem.answer, box)):
        end = begin + len(problem.answer)
        out.append([n for n, (a, b) in enumerate(zip([0, *ends], ends, strict=False)) if a < end and b > begin])
    return out[0], out[1]


if __name__ == "__main__":
    main()
