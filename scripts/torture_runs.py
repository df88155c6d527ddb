"""Kill runs at random moments, flip bits in what they leave, fill their disk; nothing may be silently wrong or lost.

    python scripts/torture_runs.py --kills 6 --rounds 0 --flips 300

Tiny random models (experiment=tiny), seconds a run. Four counts are printed as a table for docs/reliability.md:
kills    SIGKILL in tracing, training, saving or after it, then the same command: the student has the bits of one that
         was never killed
rounds   the same with source=rounds, killed while the student writes, the teacher reads or the student learns: the
         same student, the same texts with the same rows, and the same rounds.jsonl but for its seconds
flips    one bit of one file of a finished run: refused by name when it is read, or without effect; never another result
disk     a file system fills up at a share of what a run needs (root; else a limit on the size of files): one sentence,
         exit code not 0, and the same command ends once there is room
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file

from ekd.files import Damaged, read_json
from ekd.models import checkpoint
from ekd.models.load import load_model
from ekd.store.store import Store

WORDS = [
    *("experiment=tiny", "selector=topk", "signal=student_entropy", "trainer.max_steps=12", "benchmark.problems=0"),
    *("trainer.val_check_interval=4", "callback.checkpoint.every_n_train_steps=2", "callback.progress.quiet=true"),
]

ROUNDS = [
    *(*WORDS, "source=rounds", "loss=reverse_kl", "source.samples=2", "source.sampling.max_new_tokens=64"),
    *("source.sampling.batch_size=2", "source.steps_per_round=2"),
]

# What is there from some moment on; a run is killed within a second of it.
MOMENTS = ("home/traces/*/manifest.json", "run/run.json", "run/checkpoints/*.ckpt", "run/student", "run/metrics.json")
WRITING = ("run/rounds/texts/*.jsonl", "run/rounds/manifest.json", "run/rounds.jsonl", "run/checkpoints/*.ckpt")


def command(run: Path, words: Sequence[str] = WORDS) -> list[str]:
    return [sys.executable, "-m", "ekd.train", *words, f"hydra.run.dir={run}"]


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"EKD_HOME": str(home), "OMP_NUM_THREADS": "1"}


def finish(
    run: Path, home: Path, limit: Callable[[], None] | None = None, words: Sequence[str] = WORDS
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(run, words), env=environment(home), capture_output=True, text=True, check=False, preexec_fn=limit
    )


def student(run: Path) -> str:
    """A digest of the weights."""
    weights, whole = load_file(run / "student" / "model.safetensors"), hashlib.sha256()
    for name in sorted(weights):
        whole.update(name.encode() + weights[name].tobytes())
    return whole.hexdigest()


def rounds(run: Path) -> str:
    """A digest of the weights, of every text with its rows, and of what is said of each round."""
    store, whole = Store(run / "rounds"), hashlib.sha256(student(run).encode())
    for key in sorted(store.keys()):
        whole.update(
            repr([part.tolist() for part in store[key] if isinstance(part, np.ndarray)]).encode() + key.encode()
        )
    for line in (run / "rounds.jsonl").read_text().splitlines():
        said = {name: value for name, value in json.loads(line).items() if not name.startswith("seconds")}
        whole.update(json.dumps(said).encode())
    return whole.hexdigest()


class Kind(NamedTuple):
    """Of run: what it is asked for, when it is killed, and what is compared at its end."""

    words: Sequence[str]
    moments: Sequence[str]
    digest: Callable[[Path], str]
    often: tuple[int, int]  # kills of one run, least and most
    again: bool  # whether a moment comes again in a process that goes on


PLAIN = Kind(WORDS, MOMENTS, student, (1, 2), again=False)
BY_ROUNDS = Kind(ROUNDS, WRITING, rounds, (2, 4), again=True)


def kills(place: Path, count: int, chance: random.Random, truth: str, kind: Kind = PLAIN) -> Counter[str]:
    """Each run is killed a few times, and then ends in peace."""
    found: Counter[str] = Counter()
    for number in range(count):
        folder = place / f"killed-{number}"
        run, home = folder / "run", folder / "home"
        for moment in sorted(chance.sample(kind.moments, chance.randint(*kind.often)), key=kind.moments.index):
            since = time.time() if kind.again else 0.0
            process = subprocess.Popen(
                command(run, kind.words), env=environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
            while process.poll() is None and not come(folder, moment, since):
                time.sleep(0.01)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0, 1))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                found["killed"] += 1
            process.wait()
        done = finish(run, home, words=kind.words)
        same = done.returncode == 0 and kind.digest(run) == truth
        found["the same bits" if same else "OTHER BITS"] += 1
        if not same:
            print(done.stdout[-2000:], done.stderr[-2000:])
    return found


def come(folder: Path, moment: str, since: float) -> bool:
    """Whether there is such a file, written since then. One may be gone again by now."""
    for file in folder.glob(moment):
        with contextlib.suppress(FileNotFoundError):
            if file.stat().st_mtime >= since:
                return True
    return False


def rounds_killed(place: Path, count: int, chance: random.Random) -> Counter[str]:
    """Half of them with staleness=1, where the teacher reads while the student learns."""
    found: Counter[str] = Counter()
    for staleness, many in ((0, count - count // 2), (1, count // 2)):
        here = place / f"rounds-{staleness}"
        kind = BY_ROUNDS._replace(words=[*ROUNDS, f"source.staleness={staleness}"])
        if many:
            done = finish(here / "whole", here / "home", words=kind.words)
            if done.returncode != 0:
                raise SystemExit(done.stdout + done.stderr)
            found += kills(here, many, chance, rounds(here / "whole"), kind)
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
def small_disk(place: Path, kilobytes: int) -> Iterator[tuple[Path, Callable[[], None] | None]]:
    """A folder in which there is little room, and what else limits a process; root mounts one, others limit files."""
    folder = place / f"disk-{kilobytes}"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        try:
            yield folder, None
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=False)
    else:
        yield folder, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes << 6, kilobytes << 6))


def full(place: Path, shares: list[float], need: int, truth: str) -> Counter[str]:
    """need: kilobytes of a whole run with its traces."""
    found: Counter[str] = Counter()
    for kilobytes in (round(share * need) for share in shares):
        with small_disk(place, kilobytes) as (folder, limit):
            run, home = folder / "run", folder / "home"
            done = finish(run, home, limit)
            if done.returncode == 0:
                found["had room"] += 1
                continue
            clear = "Traceback" not in done.stderr and "error: " in done.stderr
            found["one sentence" if clear else "A TRACEBACK"] += 1
            if not clear:
                print(done.stderr[-2000:])
            again = place / f"room-{kilobytes}"
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
    parser.add_argument("--rounds", type=int, default=0, help="runs by rounds that are killed two to four times")
    parser.add_argument("--flips", type=int, default=300, help="bits")
    parser.add_argument("--disks", type=float, nargs="*", default=[0.2, 0.5, 0.8], help="shares of what a run needs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        done = finish(place / "whole", place / "home")
        if done.returncode != 0:
            print(done.stdout, done.stderr)
            return 1
        truth = student(place / "whole")
        need = sum(-(-file.stat().st_size // 4096) * 4 for file in place.rglob("*") if file.is_file())
        rows = {
            "kills": kills(place, options.kills, chance, truth),
            "rounds": rounds_killed(place, options.rounds, chance),
            "flips": flips(place / "whole", options.flips, chance),
            "full disks": full(place, options.disks, need, truth),
        }
    for name, counts in rows.items():
        print(f"| {name} | {', '.join(f'{n} {what}' for what, n in sorted(counts.items()))} |")
    wrong = [what for counts in rows.values() for what in counts if what.isupper() or what == "refused, not named"]
    idle = any(
        asked and not rows[name]["killed"] for name, asked in (("kills", options.kills), ("rounds", options.rounds))
    )
    idle = idle or (options.disks and not rows["full disks"]["one sentence"])
    if idle:
        print("no kill hit, or no disk was full: nothing is shown")
    return 1 if wrong or idle else 0


if __name__ == "__main__":
    sys.exit(main())
