"""Kill runs at random moments, flip bits in what they leave, fill their disk; nothing may be silently wrong or lost.

    python scripts/torture_runs.py --kills 6 --flips 300

Tiny random models (experiment=tiny), seconds a run. Three counts are printed as a table for docs/reliability.md:
kills    SIGKILL after a random time, until the same command ends: the student has the same bits as one never killed
flips    one bit of one file of a finished run: refused by name when it is read, or without effect; never another result
disk     a file system of a few MB fills up (root; else a limit on the size of files): one sentence, exit code not 0,
         and the same command ends once there is room
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors.numpy import load_file

from ekd.files import Damaged, read_json
from ekd.models import checkpoint
from ekd.models.load import load_model

WORDS = [
    *("experiment=tiny", "selector=topk", "signal=student_entropy", "trainer.max_steps=12", "benchmark.problems=0"),
    *("trainer.val_check_interval=4", "callback.checkpoint.every_n_train_steps=2", "+callback.progress.refresh_rate=0"),
]


def command(run: Path) -> list[str]:
    return [sys.executable, "-m", "ekd.train", *WORDS, f"hydra.run.dir={run}"]


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"EKD_HOME": str(home), "OMP_NUM_THREADS": "1"}


def finish(run: Path, home: Path, limit: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(run), env=environment(home), capture_output=True, text=True, check=False, preexec_fn=limit
    )


def student(run: Path) -> str:
    """A digest of the weights."""
    weights, whole = load_file(run / "student" / "model.safetensors"), hashlib.sha256()
    for name in sorted(weights):
        whole.update(name.encode() + weights[name].tobytes())
    return whole.hexdigest()


def kills(place: Path, count: int, chance: random.Random, seconds: float, truth: str) -> Counter[str]:
    """Each run is killed once or twice, in tracing, training, saving or after it, and then ends in peace."""
    found: Counter[str] = Counter()
    for number in range(count):
        run, home = place / f"killed-{number}", place / f"home-{number}"
        for _ in range(chance.randint(1, 2)):
            process = subprocess.Popen(
                command(run), env=environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0.3, 1.0) * seconds)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                found["killed"] += 1
            process.wait()
        done = finish(run, home)
        same = done.returncode == 0 and student(run) == truth
        found["the same bits" if same else "OTHER BITS"] += 1
        if not same:
            print(done.stdout[-2000:], done.stderr[-2000:])
    return found


def flips(run: Path, count: int, chance: random.Random) -> Counter[str]:
    """Of the files that a later command takes numbers from."""
    found: Counter[str] = Counter()
    files = [run / "run.json", run / "metrics.json", *sorted((run / "student").iterdir())]
    files += sorted((run / "checkpoints").glob("*.ckpt"))
    for _ in range(count):
        file = chance.choice(files)
        whole = file.read_bytes()
        place = chance.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        file.write_bytes(bytes(damaged))
        found[verdict(run, file)] += 1
        file.write_bytes(whole)
    return found


def verdict(run: Path, file: Path) -> str:
    try:
        if file.suffix == ".json" and file.parent == run:
            read_json(file, checksum=True)
        elif file.suffix == ".ckpt":
            checkpoint.load(file)
        else:
            load_model(str(run / "student"))
    except (Damaged, ValueError) as error:
        return "named" if file.name in str(error) or str(file.parent) in str(error) else "refused, not named"
    return "SILENT"


@contextlib.contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[tuple[Path, Callable[[], None] | None]]:
    """A folder in which there is little room, and what else limits a process; root mounts one, others limit files."""
    folder = place / f"disk-{megabytes}"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        try:
            yield folder, None
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=False)
    else:
        yield folder, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (megabytes << 14, megabytes << 14))


def full(place: Path, sizes: list[int], truth: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for megabytes in sizes:
        with small_disk(place, megabytes) as (folder, limit):
            run, home = folder / "run", folder / "home"
            done = finish(run, home, limit)
            if done.returncode == 0:
                found["had room"] += 1
                continue
            clear = "Traceback" not in done.stderr and "error: " in done.stderr
            found["one sentence" if clear else "A TRACEBACK"] += 1
            if not clear:
                print(done.stderr[-2000:])
            again = place / f"room-{megabytes}"
            shutil.copytree(folder, again, ignore=shutil.ignore_patterns("*.lock"))
        done = finish(again / "run", again / "home")
        same = done.returncode == 0 and student(again / "run") == truth
        found["then the same bits" if same else "THEN LOST"] += 1
        if not same:
            print(done.stdout[-1000:], done.stderr[-1000:])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Kills, flipped bits and full disks.")
    parser.add_argument("--kills", type=int, default=6, help="runs that are killed once or twice")
    parser.add_argument("--flips", type=int, default=300, help="bits")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1, 2, 3], help="MB of the disks that fill up")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        before = os.times().elapsed
        done = finish(place / "whole", place / "home")
        if done.returncode != 0:
            print(done.stdout, done.stderr)
            return 1
        seconds, truth = os.times().elapsed - before, student(place / "whole")
        rows = {
            "kills": kills(place, options.kills, chance, seconds, truth),
            "flips": flips(place / "whole", options.flips, chance),
            "full disks": full(place, options.sizes, truth),
        }
    for name, counts in rows.items():
        print(f"| {name} | {', '.join(f'{n} {what}' for what, n in sorted(counts.items()))} |")
    wrong = [what for counts in rows.values() for what in counts if what.isupper() or what == "refused, not named"]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
