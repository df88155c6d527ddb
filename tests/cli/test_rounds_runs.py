"""Rounds through the real command line: what is said of them, several ranks, adapters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_train import ekd

from ekd.store.store import Store
from ekd.types import Trace

WORDS = ["experiment=[tiny,on_policy]", "source.sampling.max_new_tokens=12", "source.sampling.batch_size=2"]
WORDS += ["benchmark.problems=0", "trainer.log_every_n_steps=1", "trainer.max_steps=3"]


def train(place: Path, name: str, *words: str) -> tuple[Path, str]:
    """-> the run's folder, and what was printed."""
    done = ekd("train", *WORDS, f"hydra.run.dir={place / name}", *words, cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    return place / name, done.stdout


def texts(run: Path) -> dict[tuple[str, str], Trace]:
    """Of a run's rounds, by round and problem."""
    store = Store(run / "rounds")
    found = [store[key] for key in sorted(store.keys())]
    assert len({(t.policy, t.problem_id) for t in found}) == len(found)
    return {(t.policy, t.problem_id): t for t in found}


def told(run: Path) -> list[dict]:
    """Of each round, what no clock says."""
    lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in lines]


def student(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "student" / "model.safetensors")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_write_and_learn_what_one_does(tmp_path, strategy):
    """Each rank writes its share into one store; one rank that accumulates two batches takes the same steps."""
    words = ["source.staleness=1", "source.problems_per_round=6"]
    alone, said = train(tmp_path, "alone", "trainer.accumulate_grad_batches=2", *words)
    both, also = train(tmp_path, "both", "trainer.devices=2", f"trainer.strategy={strategy}", *words)
    for run, out in ((alone, said), (both, also)):
        assert out.count(f"rounds      {run / 'rounds'}\n") == 1
    one, two = texts(alone), texts(both)
    assert one.keys() == two.keys() and len(one) == 18
    # a sum over ranks is added up in another order: only the first weights are the same to the bit
    for place in one:
        if place[0] in ("student@0", "student@1"):
            assert one[place].response_ids.tolist() == two[place].response_ids.tolist()
            assert one[place].log_q.tolist() == two[place].log_q.tolist()
    assert told(both)[0] == told(alone)[0] and [line["round"] for line in told(both)] == [0, 1, 2]
    assert not list((both / "rounds" / "texts").glob("*"))
    for name, value in student(alone).items():
        torch.testing.assert_close(student(both)[name], value, atol=1e-6, rtol=1e-5)
