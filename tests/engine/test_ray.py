"""Real workers of Ray's on loopback: the same traces, one killed, failures told, Ctrl-C, a cluster that runs."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from wire_servers import llama_server

from ekd.engine.crew import of_response
from ekd.store.presence import present
from ekd.store.repair import verify
from ekd.store.store import Store
from ekd.types import Trace

ROOT = Path(__file__).parents[2]
HIDDEN = "hidden-from-everybody"
# not imported here: where it listens is decided at its import
pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="pip install 'ekd[ray]'")


def environment(folder: Path, **changes: str) -> dict[str, str]:
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "EKD_HOME": str(folder / "home"), "OPENAI_API_KEY": HIDDEN}
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | own | changes


def ekd(door: str, *words: str, folder: Path, **changes: str) -> str:
    """What it said."""
    done = subprocess.run(
        [sys.executable, "-m", f"ekd.{door}", *words],
        cwd=folder, env=environment(folder, **changes), capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert HIDDEN not in done.stdout + done.stderr and "raylet" not in done.stdout + done.stderr
    return done.stdout


def descend(pid: int) -> list[int]:
    """The processes that it started, and those that they did."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # gone by now
            continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def alive(pids: list[int]) -> list[str]:
    """Those that are still at work, by what they are."""
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            found += [Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:80]] if state != "Z" else []
        except OSError:
            continue
    return found


def same(one: Store, other: Store) -> None:
    assert one.keys() == other.keys()
    for key in one.keys():  # noqa: SIM118
        for name, a, b in zip(Trace._fields, one[key], other[key], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=f"{key} {name}")


def test_a_run_by_two_workers_has_the_traces_of_one_that_asks_itself(tmp_path):
    """And all that follows: the store of each is where the other looks for it."""
    words = ["experiment=tiny", "benchmark.problems=0", "viewer=0", "data.collector.store=traces"]
    plain, by_ray = tmp_path / "local", tmp_path / "ray"
    plain.mkdir(), by_ray.mkdir()
    ekd("train", *words, f"hydra.run.dir={plain}/run", folder=plain)
    said = ekd("train", *words, "engine=ray", f"hydra.run.dir={by_ray}/run", folder=by_ray)
    same(Store(plain / "traces"), Store(by_ray / "traces"))
    lines = [line for line in said.splitlines() if line.startswith("worker ")]
    assert len(lines) in (1, 2) and sum(int(line.split()[2]) for line in lines) == 56  # the first may be done alone
    assert all(line.endswith(" 0 failed") for line in lines) and " workers at " in said
    figures = [
        json.loads((folder / "run" / "metrics.json").read_text())["figures"]["after"] for folder in (plain, by_ray)
    ]
    assert figures[0] == figures[1]


def test_a_worker_that_is_killed_costs_what_was_at_its_teacher():
    script = ROOT / "scripts" / "torture_ray.py"
    command = [sys.executable, str(script), "--requests", "60", "--kills", "1", "--seconds", "0.1"]
    done = subprocess.run(command, env=environment(ROOT), capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["wrong"] == [] and (facts["keys"], facts["kills"]) == (60, 1) and facts["begun twice"] <= 1
    assert "another takes its place" in done.stdout and "raylet" not in done.stdout + done.stderr


@pytest.mark.real
@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="needs the wheel xllamacpp")
def test_a_server_is_asked_by_two_workers_that_share_a_core(tmp_path):
    """It reads given text, so that all of it has to be as it is to one that asks alone."""
    with llama_server() as url:
        words = ["teacher=openai", f"teacher.endpoints=[{url}]", "teacher.mode=score"]
        words += ["teacher.concurrency=1", "student.model=smollm2", "dataset=arithmetic"]
        words += ["data.train_problems=6", "data.val_problems=1"]
        ekd("trace", *words, "data.collector.store=alone", folder=tmp_path)
        by_ray = ["engine=ray", "engine.cpus=0.5", "engine.in_flight=1", "data.collector.store=together"]
        said = ekd("trace", *words, *by_ray, folder=tmp_path)
    alone, together = Store(tmp_path / "alone"), Store(tmp_path / "together")
    assert len(alone) == 7 and alone.keys() == together.keys() and "\nworker " in said
    for key in alone.keys():  # noqa: SIM118
        np.testing.assert_array_equal(alone[key].response_ids, together[key].response_ids)
        gap = np.abs(of_response(alone[key]) - of_response(together[key]))
        assert np.mean(gap) < 0.3  # llama.cpp rounds activations to 8 bits, in company otherwise than alone


def test_failures_are_told_by_worker(tmp_path):
    (tmp_path / "plugin.py").write_text(FAILS)
    words = ["engine=ray", "data.collector.store=traces", "data.train_problems=12", "teacher._target_=plugin.Odd"]
    done = subprocess.run(
        [sys.executable, "-m", "ekd.trace", "experiment=tiny", *words],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600,
        env=environment(tmp_path, PYTHONPATH=f"{ROOT}:{tmp_path}"),
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    failed = [int(line.split(",")[-1].split()[0]) for line in done.stdout.splitlines() if line.startswith("worker ")]
    assert sum(failed) == done.stdout.count("failed: problem ") > 0 and "is odd" in done.stdout
    assert len(Store(tmp_path / "traces")) == 20 - sum(failed)


FAILS = """
from dataclasses import dataclass
from ekd.teacher.hf import HF
from ekd.types import Failure

@dataclass(frozen=True, kw_only=True)
class Odd(HF):
    def trace(self, requests):
        for made in super().trace(requests):
            yield Failure(made.key, made.problem_id, "its key is odd") if int(made.key, 16) % 2 else made
"""


def test_a_cluster_that_runs_is_joined_and_goes_on(tmp_path):
    """With its token; without it, or where there is none, one sentence says so."""
    port, words = free_port(), ["experiment=tiny", "data.collector.store=traces", "data.train_problems=12"]
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5" * 64}
    with head_of_a_cluster(port, environment(tmp_path, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", **token)) as head:
        words += ["engine=ray", f"engine.address=127.0.0.1:{port}"]
        for _ in range(2):  # it is there for the next one, too
            said = ekd("trace", *words, folder=tmp_path, **token)
            assert "\nworker " in said and len(Store(tmp_path / "traces")) == 20
            shutil.rmtree(tmp_path / "traces")
        assert head.poll() is None
        assert f"engine.address=127.0.0.1:{port}: no Ray cluster there takes us" in refused(words, tmp_path)
    said = refused([*words, "engine.address=127.0.0.1:9"], tmp_path)
    assert "engine.address=127.0.0.1:9: no Ray cluster there takes us: [Errno " in said and "Connection refused" in said


def refused(words: list[str], folder: Path) -> str:
    command = [sys.executable, "-m", "ekd.trace", *words]
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stdout + done.stderr
    return done.stderr


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def head_of_a_cluster(port: int, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    ray = [Path(sys.executable).parent / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1"]
    more = [f"--port={port}", "--num-cpus=2", "--include-dashboard=false", "--object-store-memory=100000000"]
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        head = subprocess.Popen(
            [*ray, *more, f"--temp-dir={folder}"], env=env, start_new_session=True, stdout=subprocess.DEVNULL
        )
        try:
            began = time.monotonic()
            while not answers(port):
                assert head.poll() is None and time.monotonic() - began < 300
                time.sleep(0.2)
            yield head
        finally:
            started = descend(head.pid)
            for pid in (head.pid, *started):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            head.wait()


def answers(port: int) -> bool:
    with socket.socket() as knock:
        return knock.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
def test_ctrl_c_leaves_nothing_running_and_nothing_lost_and_only_loopback_listens(tmp_path):
    words = ["experiment=tiny", "engine=ray", "data.collector.store=traces", "data.train_problems=null"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ekd.trace", *words, "dataset.train=3000"], cwd=tmp_path, env=environment(tmp_path),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    began = time.monotonic()
    while not any(list(folder.glob("*.arrows")) for folder in present(tmp_path / "traces")):
        assert process.poll() is None and time.monotonic() - began < 300
        time.sleep(0.2)
    started = descend(process.pid)
    assert any("raylet" in one for one in alive(started)) and listening(started) == {"127.0.0.1"}
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in said and HIDDEN not in said, said
    began = time.monotonic()
    while left := alive(started):
        assert time.monotonic() - began < 30, left
        time.sleep(0.2)
    assert not present(tmp_path / "traces") and verify(tmp_path / "traces")[2:] == ([], [])
    assert 0 < len(Store(tmp_path / "traces")) < 3000


def listening(pids: list[int]) -> set[str]:
    """Addresses at which these processes wait for others, over TCP."""
    sockets = set()
    for pid in pids:
        try:
            sockets |= {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir()}
        except OSError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                last = fields[1].split(":")[0][-8:]
                found.add(".".join(str(int(last[at : at + 2], 16)) for at in (6, 4, 2, 0)))
    return found
