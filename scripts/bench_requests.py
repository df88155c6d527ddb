"""How long it takes to make requests of made-up problems: reading them, prompts, token ids, keys.

    python scripts/bench_requests.py --problems 100000 --mode generate --tokenizer smollm2

Nothing else is measured: no teacher is asked. Seconds of the clock, and of all cores: a busy machine makes the first
longer.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from time import perf_counter, process_time

from ekd.data.collect import Collector
from ekd.dataset.jsonl import Jsonl
from ekd.models.prompt import Prompt
from ekd.teacher.hf import HF

WORDS = (
    "the train leaves a station at noon with some more apples than boxes and each of them costs two coins so how many"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=100_000)
    parser.add_argument("--mode", choices=("generate", "score"), default="generate")
    parser.add_argument("--tokenizer", default="smollm2")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = collector(problems(Path(folder) / "made.jsonl", options.problems), options.mode, options.tokenizer)
        _ = made.student_tokenizer, made.family  # loaded before the clock starts
        timed("read", lambda: made.dataset.problems("train"))
        requests = timed("requests", lambda: made.requests("train", None))
        timed("requests again", lambda: made.requests("train", None))
    tokens = sum(len(r.prompt_ids) + len(r.response_ids or ()) for r in requests)
    print(f"{len(requests):,} requests of {tokens / len(requests):.0f} tokens")


def timed(what: str, work):  # type: ignore[no-untyped-def]
    clock, cores = perf_counter(), process_time()
    result = work()
    print(f"{what}: {perf_counter() - clock:.2f} s, {process_time() - cores:.2f} s of all cores")
    return result


def problems(file: Path, count: int) -> Path:
    chance, words = random.Random(0), WORDS.split()
    with file.open("w") as out:
        for n in range(count):
            question = f"Problem {n}: {' '.join(chance.choices(words, k=45))}?"
            solution = f"{' '.join(chance.choices(words, k=80))} \\boxed{{{n}}}"
            out.write(json.dumps({"question": question, "answer": str(n), "solution": solution}) + "\n")
    return file


def collector(file: Path, mode: str, tokenizer: str) -> Collector:
    columns = {"question": "question", "answer": "answer", "solution": "solution", "id": "id"}
    loading = {"dtype": "float32", "quantize": None, "attention": "sdpa", "device": "cpu", "trust_remote_code": False}
    rows = {"mass": 0.99, "max_k": 32, "draws": 0, "temperatures": [], "temperature": 0.6, "top_p": 0.95}
    return Collector(
        teacher=HF(model=tokenizer, mode=mode, max_new_tokens=4000, batch_size=8, **loading, **rows),
        dataset=Jsonl(train=str(file), val=None, test=None, val_percent=0, **columns),
        prompt=Prompt(system="You solve problems.", instruction="Box the answer.", shots=0, thinking=None),
        tokenizer=tokenizer,
        store=None,
        samples=1,
        seed=0,
        trust_remote_code=False,
        text_tokens=1024,
    )


if __name__ == "__main__":
    main()
