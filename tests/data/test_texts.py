"""Texts that wait for the teacher: whose files are removed once they are read, and whose are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ekd.data.texts import KeptTexts
from ekd.files import machine
from ekd.types import Request, Text


def request(key: str) -> Request:
    return Request(key, key, 0, 0, [1])


def test_files_whose_texts_are_all_stored_go_unless_somebody_may_add_to_them(tmp_path):
    kept, gone = KeptTexts(tmp_path), subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    kept.keep([request("a")], [Text([1, 2], "stop", 0.5, log_q=[-1.0, -0.5])])
    files = {
        f"{gone.pid}.jsonl": ["a"],  # as they were named before
        f"{machine()}-{gone.pid}.jsonl": ["a", "b"],
        f"{machine()}-{os.getppid()}.jsonl": ["a"],  # lives
        f"elsewhere-{gone.pid}.jsonl": ["a"],  # who knows whether it does
        "notes.jsonl": ["a"],
    }
    for name, keys in files.items():
        (kept.folder / name).write_text("".join(json.dumps([key, [1], "stop", 0.0]) + "\n" for key in keys))
    kept.forget({"a"})
    stay = set(files) - {f"{gone.pid}.jsonl"}
    assert {file.name for file in kept.folder.iterdir()} == stay
    kept.forget({"a", "b"})
    assert {file.name for file in kept.folder.iterdir()} == stay - {f"{machine()}-{gone.pid}.jsonl"}


def test_what_was_kept_comes_back_but_for_half_a_line(tmp_path):
    kept, text = KeptTexts(tmp_path), Text([3, 4], "length", 0.25, log_q=[-2.0, -0.125])
    kept.keep([request("a"), request("b")], [text, text])
    with kept.own.open("a") as file:
        file.write('["c", [1')
    assert KeptTexts(tmp_path).read() == {"a": text, "b": text}
    kept.keep([request("c")], [text])
    assert kept.read().keys() == {"a", "b", "c"}
    kept.own.write_text("{}\n")
    with pytest.raises(ValueError, match=r"line 1 is no text that was written here"):
        kept.read()
