"""Several teachers of one text through the real command line: tokens by their agreement, and what the page says."""

from __future__ import annotations

import json

import numpy as np
from conftest import collector, hf
from test_train import ekd

TEACHERS = ("tiny:1", "tiny:2")


def test_a_student_learns_where_its_teachers_agree_and_the_page_tells_them_apart(tmp_path):
    stores = []
    for name in TEACHERS:
        made = collector(teacher=hf(model=name, mode="score"), store=str(tmp_path / name))
        made.collect("train", 12)
        stores.append(made.open())
    words = [
        "experiment=tiny",
        "source=stores",
        f"source.paths=[{stores[0].path},{stores[1].path}]",
        "source.mean=true",
    ]
    words += ["signal=teacher_agreement", "selector=topk", "selector.k_percent=25", "benchmark.problems=0"]
    run = tmp_path / "run"
    done = ekd(
        "train", *words, "trainer.max_steps=3", "trainer.val_check_interval=3", f"hydra.run.dir={run}", cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((run / "metrics.json").read_text())["figures"]
    assert 0.2 < figures["train"]["selected"] < 0.35
    # held-out rows have one teacher: their KL is measured, and no choice among them is
    assert "choice/kl/decile0" in figures["after"] and "choice/share" not in figures["after"]
    page = (run / "report" / "index.html").read_text()
    for store, told in zip(stores, figures["teachers"], strict=True):
        read = [store[key] for key in sorted(store.keys())]
        tokens = sum(len(t.response_ids) for t in read)
        entropy = np.concatenate([t.entropy for t in read]).mean()
        assert (told["teacher"], told["texts"], told["tokens"]) == (store.teacher, 12, tokens)
        assert told["right"] == told["graded"] == 12 and abs(told["entropy"] - entropy) < 1e-4
        assert f">{store.teacher}<" in page and f">{entropy:.3f}<" in page
