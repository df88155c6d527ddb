"""What was freed is the system's again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PIECES = """
from ekd.models.heap import trim
from pathlib import Path
resident = lambda: int(Path('/proc/self/statm').read_text().split()[1]) * 4096
pieces = [bytearray(65536) for _ in range(3200)]  # 210 MB, below glibc's threshold for pages of their own
del pieces[:-1]  # the last one keeps the end of the heap, so that glibc keeps the rest
before = resident()
trim()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's heap")
def test_what_was_freed_goes_back_though_something_lies_behind_it():
    said = subprocess.run([sys.executable, "-c", PIECES], capture_output=True, text=True, check=True).stdout
    assert int(said) > 150_000_000
