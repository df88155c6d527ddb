"""Several teachers of one text through the real command line: tokens by their agreement, and what the page says."""

from __future__ import annotations

import json

import pytest
from conftest import collector, hf
from test_train import ekd

TEACHERS = ("tiny:1", "tiny:2")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """-> the folder of a run that learns where two teachers disagree least."""
    place = tmp_path_factory.mktemp("several")
    for name in TEACHERS:
        collector(teacher=hf(model=name, mode="score"), store=str(place / name)).collect("train", 12)
    words = ["experiment=tiny", "source=stores", f"source.paths=[{place / TEACHERS[0]},{place / TEACHERS[1]}]"]
    words += ["source.mean=true", "signal=teacher_agreement", "selector=topk", "selector.k_percent=25"]
    words += ["benchmark.problems=0", "trainer.max_steps=3", "trainer.val_check_interval=3"]
    done = ekd("train", *words, f"hydra.run.dir={place / 'run'}", cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "run"


def test_a_student_learns_where_its_teachers_agree(run):
    figures = json.loads((run / "metrics.json").read_text())["figures"]
    assert 0.2 < figures["train"]["selected"] < 0.35
    # held-out rows have one teacher: their KL is measured, and no choice among them is
    assert "choice/kl/decile0" in figures["after"] and "choice/share" not in figures["after"]
