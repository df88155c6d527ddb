"""Whether two LaTeX expressions are the same by algebra: math-verify, in a process of its own.

math-verify bounds its time with SIGALRM, which works only in the main thread and cannot interrupt one long C call such
as a huge power. So it runs in a child process that reads and answers one JSON line at a time, and a watchdog thread
written in C (faulthandler) ends that child when an answer takes too long. The parent sees the pipe close, says "not the
same", and starts another child when it next needs one. This works in any thread and under any launcher.
"""

from __future__ import annotations

import atexit
import faulthandler
import json
import logging
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

SECONDS = 3.0  # the longest that one comparison may take, once the child is ready
MEMORY = 2 * 2**30  # bytes of address space that the child may use, where the system can limit it


@dataclass(kw_only=True)
class Child:
    """The process that compares, started when first needed and again after it was ended."""

    seconds: float
    process: subprocess.Popen[str] | None = None
    owner: int = 0  # the process that started it: a fork must not share its pipe
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, gold: str, given: str) -> bool:
        """False also when the child did not answer in time. Raises RuntimeError if math-verify cannot be loaded."""
        with self.lock:
            process = self._running()
            assert process.stdin and process.stdout
            try:
                process.stdin.write(json.dumps([gold, given]) + "\n")
                process.stdin.flush()
                reply = process.stdout.readline()
            except BrokenPipeError:
                reply = ""
            if not reply:
                self._end()
            return reply.strip() == "true"

    def _running(self) -> subprocess.Popen[str]:
        if self.process is not None and self.owner == os.getpid() and self.process.poll() is None:
            return self.process
        self.process, self.owner = self._start(), os.getpid()
        return self.process

    def _start(self) -> subprocess.Popen[str]:
        root = str(Path(__file__).parents[2])  # so that the child finds ekd from any folder, installed or not
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            [sys.executable, "-m", "ekd.dataset.symbolic", str(self.seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the parent
        )
        assert process.stdout
        if process.stdout.readline().strip() != "ready":
            process.kill()
            raise RuntimeError(
                "math-verify could not be loaded; `pip install 'math-verify[antlr4_9_3]'` in this Python"
            )
        return process

    def _end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None

    def close(self) -> None:
        if self.owner == os.getpid():
            self._end()


_CHILD = Child(seconds=SECONDS)
atexit.register(_CHILD.close)


@lru_cache(maxsize=4096)  # a student that loops gives the same answer a hundred times
def same_by_algebra(gold: str, given: str) -> bool:
    """Both without dollar signs. gold is the reference: the comparison is not symmetric for equations and sets."""
    return _CHILD.ask(gold, given)


def _compare(gold: str, given: str) -> bool:
    from math_verify import LatexExtractionConfig, parse, verify

    latex = [LatexExtractionConfig()]
    left = parse(f"${gold}$", latex, fallback_mode="no_fallback", parsing_timeout=None)
    right = parse(f"${given}$", latex, fallback_mode="no_fallback", parsing_timeout=None)
    return bool(left and right and verify(left, right, allow_set_relation_comp=True, timeout_seconds=None))


def _limit_memory() -> None:
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def serve(seconds: float) -> None:
    """The child: one JSON pair in, one "true" or "false" out, until the parent closes the pipe."""
    logging.disable(logging.CRITICAL)
    replies, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is not a reply
    _compare("1", "1")  # load everything before the clock runs
    _limit_memory()
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        faulthandler.dump_traceback_later(seconds, exit=True)
        verdict = _compare(*json.loads(line))
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(verdict), file=replies, flush=True)


if __name__ == "__main__":
    serve(float(sys.argv[1]))
