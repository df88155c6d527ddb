"""How far long work is: a bar where somebody looks, plain lines where a file does."""

from __future__ import annotations

import io
import re
from time import sleep

import pytest
import rich
from rich.console import Console

from ekd.models import progress
from ekd.models.progress import ProgressBar, clock, tracked


@pytest.fixture(params=[80, 120])
def screen(monkeypatch, request) -> Console:
    """A terminal of so many columns, as every bar finds it."""
    console = Console(
        file=io.StringIO(), force_terminal=True, width=request.param, height=40, _environ={"TERM": "xterm"}
    )
    monkeypatch.setattr(rich, "_console", console)
    return console


def test_elsewhere_than_on_a_terminal_a_line_comes_every_so_many_seconds_and_one_at_the_end(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.05)
    with ProgressBar("training", 10, done=2, unit="steps") as bar:
        bar.began -= 60  # a minute ago
        bar.update(4, "loss 4")
        sleep(0.4)
        bar.update(10, "loss 10")
    lines = capsys.readouterr().out.splitlines()
    assert 2 < len(lines) < 12
    assert re.fullmatch(r"training: 4/10 steps, 1:00, 3:0\d left, loss 4", lines[0])
    assert lines[-1] == "training: 10/10 steps, 1:00, loss 10"


@pytest.mark.parametrize("slow", [False, True])
def test_passing_work_leaves_a_line_only_where_it_was_long(capsys, monkeypatch, slow):
    monkeypatch.setattr(progress, "SECONDS", 0.02 if slow else 60)
    for _ in tracked(range(2), "the student reads", transient=True):
        sleep(0.1)
    assert bool(capsys.readouterr().out) == slow


def test_quiet_work_and_no_work_say_nothing(capsys, screen):
    assert list(tracked([], "writing")) == [] and list(tracked([1, 2], "writing", quiet=True)) == [1, 2]
    assert capsys.readouterr().out == screen.file.getvalue() == ""


def test_the_count_of_unknown_work_has_no_end(capsys):
    with ProgressBar("reading", None) as bar:
        bar.update(1_200)
    assert bar.left is None and capsys.readouterr().out == "reading: 1,200, 0:00\n"


def test_a_bar_within_a_bar_fits_the_terminal_and_the_inner_one_goes(screen):
    with ProgressBar("training", 60, unit="steps") as outer:
        outer.update(45, "loss 1.72, KL 2.12, 12,345 tokens/s")
        with ProgressBar("held-out KL", 3, unit="batches", transient=True) as inner:
            inner.update(1)
            inner.bar.refresh()
    screen.file.seek(0)
    drawn = [line for line in plain(screen.file.read()).splitlines() if line.strip()]
    assert all(len(line) <= screen.width for line in drawn)
    assert any("1/3 batches" in line for line in drawn)
    for part in ("training ", " 45/60 steps 0:00", "loss 1.72, KL 2.12, 12,345 tokens/s"):
        assert part in drawn[-1]


def plain(text: str) -> str:
    """Without the codes that color and move; a line drawn anew is a line of its own."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "\n")


def test_time_is_written_as_clocks_write_it():
    assert [clock(s) for s in (0.4, 75, 3700)] == ["0:00", "1:15", "1:01:40"]
