"""What a command does before its work: mistakes are answered before torch is loaded, and a run loads what it uses."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ekd.cli.kinds import _hints, fits, spell
from ekd.cli.signature import signature
from ekd.method import CONF

SLOW = {"torch", "lightning", "transformers"}  # seconds each
VALUES: list[Any] = [None, True, 3, 0.5, "many", "auto", [1, 2], ["a"], {"a": 1}]


def loaded(tmp_path: Path, command: str, *words: str) -> tuple[set[str], str]:
    """What a command had imported when it ended, and its words on stderr."""
    out = tmp_path / "loaded.txt"
    code = (
        "import atexit, runpy, sys\n"
        "out = open(sys.argv.pop(1), 'w')\n"
        "atexit.register(lambda: print(*{name.partition('.')[0] for name in sys.modules}, file=out))\n"
        "runpy.run_module('ekd', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(out), command, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    return set(out.read_text().split()), done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trainer.max_steps=many"], "error: trainer.max_steps is a whole number, not 'many'\n"),
        (["teacher.batch_size=abc"], "error: teacher.batch_size is a whole number, not 'abc'\n"),
        (["data.max_tokens=[1]"], "data.max_tokens is a whole number, not [1]"),
        (["student.optimizer.lr=fast"], "student.optimizer.lr is a number"),
        (["-m", "data.seed=0,one"], "data.seed is a whole number, not 'one'"),
        (["selector=nope"], "error: there is no selector=nope"),
        (["--help"], ""),
    ],
)
def test_what_is_wrong_on_the_command_line_is_said_before_anything_slow_is_imported(tmp_path, words, says):
    modules, stderr = loaded(tmp_path, "train", *words)
    assert says in stderr and not SLOW & modules


def test_the_doctor_loads_torch_alone(tmp_path):
    modules, stderr = loaded(tmp_path, "doctor")
    assert stderr == "" and SLOW & modules == {"torch"}


def test_a_run_that_logs_to_a_file_loads_neither_wandb_nor_datasets(tmp_path):
    words = ["experiment=tiny", "trainer.max_steps=1", "benchmark.problems=0", "viewer=0", "hydra.run.dir=run"]
    modules, stderr = loaded(tmp_path, "train", *words)
    assert (tmp_path / "run" / "metrics.json").exists(), stderr
    assert not {"wandb", "datasets", "pandas", "math_verify", "ollama"} & modules


TARGETS = sorted(
    {found for file in CONF.rglob("*.yaml") for found in re.findall(r"_target_: ([\w.]+)", file.read_text())}
)


def words(kind: Any) -> list[str]:
    """typing keeps the order of a union that it met first."""
    return sorted(spell(kind).split(" or "))


@pytest.mark.parametrize("target", TARGETS)
def test_no_value_is_refused_unread_that_the_imported_annotations_take(target):
    """And where both refuse, they say the same."""
    try:
        known = _hints(target)
    except ValueError:
        pytest.skip("its package is not installed")
    for argument, kind in signature(target).items():
        for value in VALUES if argument in known else []:
            if not fits(value, kind):
                assert not fits(value, known[argument]), (argument, kind, known[argument], value)
                assert words(kind) == words(known[argument])


def test_the_signatures_of_ekds_own_parts_are_whole():
    own = [target for target in TARGETS if target.startswith("ekd.")]
    assert len(own) > 50
    for target in own:
        lacking = _hints(target).keys() - {"return"} - signature(target).keys()
        assert not lacking or target == "ekd.cli.door.wandb_settings", (target, lacking)  # which takes any **settings
