"""What the benchmarks print beside their figures: versions, commit, threads and load."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[1]


def circumstances(*packages: str) -> str:
    """One line, of which the load is that before anything was measured."""
    made = [f"{name} {known}" for name in packages if (known := installed(name))]
    threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
    where = f"{os.cpu_count()} cores, {threads} threads, load {os.getloadavg()[0]:.1f}"
    return f"Python {platform.python_version()}, {', '.join(made)}; commit {commit()}; {where}"


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> str:
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Markdown; all but the first column are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
