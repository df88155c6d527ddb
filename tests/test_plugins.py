"""A selector, signal, loss, dataset and teacher of one's own: one Python file and one yaml each, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

FILES = {
    "mine/selector/first.py": '''
"""The first rows of every answer."""
from dataclasses import dataclass
import torch

@dataclass(frozen=True, kw_only=True)
class First:
    rows: int

    def __call__(self, score, sequence):
        _, sizes = sequence.unique_consecutive(return_counts=True)
        place = torch.cat([torch.arange(size) for size in sizes.tolist()])
        return (place < self.rows).to(score)
''',
    "mine/signal/margin.py": '''
"""How far apart the teacher's two likeliest tokens are."""
from dataclasses import dataclass

@dataclass(frozen=True, kw_only=True)
class Margin:
    needs_student = False

    def __call__(self, rows):
        best = rows.teacher_logprobs[:, :-1].exp().topk(2, 1).values
        return best[:, 1] - best[:, 0]
''',
    "mine/loss/squared.py": '''
"""Squared distance of the probabilities."""
from dataclasses import dataclass

@dataclass(frozen=True, kw_only=True)
class Squared:
    def __call__(self, log_p, log_q):
        return (log_p.exp() - log_q.exp()).square().sum(1)
''',
    "mine/dataset/doubles.py": '''
"""Twice a number."""
from dataclasses import dataclass
from ekd.types import Problem, Verdict

START = {"train": 0, "val": 100, "test": 200}

@dataclass(frozen=True, kw_only=True)
class Doubles:
    count: int

    def problems(self, split):
        numbers = range(START[split], START[split] + self.count)
        return [Problem(f"{n}", f"What is twice {n}?", f"{2 * n}", f"It is {2 * n}.") for n in numbers]

    def grade(self, problem, response):
        right = problem.answer in response
        return Verdict("correct" if right else "wrong", problem.answer if right else "?")
''',
    "mine/teacher/parrot.py": '''
"""Says one word, sure of it but for a tenth."""
from dataclasses import dataclass
import numpy as np
from ekd.types import Trace

@dataclass(frozen=True, kw_only=True)
class Parrot:
    word: str
    mode: str = "generate"
    exact: bool = True
    tokenizer: str | None = None

    def origin(self):
        return {"type": "parrot", "word": self.word, "vocab": 272}

    def trace(self, requests):
        for request in requests:
            ids = np.array([*self.word.encode(), 257], np.int32)
            n = len(ids)
            yield Trace(
                key=request.key, problem_id=request.problem_id, sample=request.sample, finish="stop",
                prompt_ids=np.array(request.prompt_ids, np.int32), response_ids=ids,
                counts=np.full(n, 2, np.int32), ids=np.stack([ids, (ids + 1) % 256], 1).ravel().astype(np.int32),
                logprobs=np.tile(np.log([0.9, 0.05]), n).astype(np.float32),
                log_tail=np.full(n, np.log(0.05), np.float32), entropy=np.full(n, 0.5, np.float32), exact=True,
                valid=np.ones(n, bool), log_norm=np.zeros((n, 0), np.float32),
            )
''',
    "conf/selector/first.yaml": "# The first rows.\n_target_: mine.selector.first.First\nrows: 2 # how many\n",
    "conf/signal/margin.yaml": "# The teacher's margin.\n_target_: mine.signal.margin.Margin\n",
    "conf/loss/squared.yaml": "# Squared distance.\n_target_: mine.loss.squared.Squared\n",
    "conf/dataset/doubles.yaml": "# Twice a number.\n_target_: mine.dataset.doubles.Doubles\ncount: 12 # of a split\n",
    "conf/teacher/parrot.yaml": "# One word.\n_target_: mine.teacher.parrot.Parrot\nword: yes # what it says\n",
}


def test_five_actors_of_ones_own_take_one_file_and_one_yaml_each(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text.lstrip().replace("word: yes ", 'word: "yes" '))
    words = [
        *("--config-dir", str(tmp_path / "conf"), "teacher=parrot", "dataset=doubles", "signal=margin"),
        *("selector=first", "selector.rows=3", "loss=squared", "student.model=tiny", "data.train_problems=8"),
        *("data.val_problems=4", "benchmark.problems=4", "benchmark.max_new_tokens=8", "trainer.max_steps=2"),
        *("trainer.accelerator=cpu", "trainer.val_check_interval=2", "hydra.run.dir=run", "baselines.teacher=false"),
    ]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}", "EKD_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-m", "ekd.train", *words], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    made = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert made["method"] == "first_rows_3-margin-squared"
    assert made["figures"]["benchmark"]["student after"]["problems"] == 4
    assert 0 < made["figures"]["train"]["selected"] < 1
