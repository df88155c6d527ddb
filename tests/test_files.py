"""Files that are whole or absent, and folders that say what they hold."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest
from filelock import FileLock

from ekd.files import SEAL, Damaged, check_seal, clear_killed, is_complete, make_folder, read_json, write_json


def fill(folder):
    (folder / "weights.bin").write_bytes(random.Random(0).randbytes(5000))
    (folder / "config.json").write_text('{"a": 1}')


def test_every_damage_to_a_json_file_is_named(tmp_path):
    file, content = tmp_path / "run.json", {"config": {"seed": 0, "lr": 1e-3}, "figures": [1.5, None], "who": "ä"}
    write_json(file, content)
    assert read_json(file) == content
    whole = file.read_bytes()
    damages = [whole[:n] for n in range(0, len(whole), 7)] + [b"\xff" + whole, b"[]", b"3", whole + b"}"]
    for key in content:  # a key that is missing, a value of another type
        changed = json.loads(whole)
        changed[key] = 7
        damages.append(json.dumps(changed).encode())
        damages.append(json.dumps({k: v for k, v in changed.items() if k != key}).encode())
    for damage in damages:
        file.write_bytes(damage)
        with pytest.raises(Damaged, match=r"run\.json is damaged"):
            read_json(file)


def test_any_bit_flip_in_a_sealed_folder_is_named(tmp_path):
    folder, lot = tmp_path / "student", random.Random(1)
    make_folder(folder, fill)
    check_seal(folder)
    for name in ("weights.bin", "config.json", SEAL):
        file = folder / name
        whole = file.read_bytes()
        for _ in range(100):
            damaged, place = bytearray(whole), lot.randrange(len(whole))
            damaged[place] ^= 1 << lot.randrange(8)
            file.write_bytes(damaged)
            if name == SEAL and json.loads(whole) == loaded(damaged):
                continue  # white space
            with pytest.raises(Damaged, match=str(folder)):
                check_seal(folder)
        file.write_bytes(whole)
    (folder / "weights.bin").unlink()
    with pytest.raises(Damaged, match=r"weights\.bin is missing"):
        check_seal(folder)
    assert not is_complete(folder)
    (folder / SEAL).unlink()
    check_seal(folder)  # not of our making: loads as ever


def loaded(text: bytes):
    try:
        return json.loads(text)
    except ValueError:
        return None


def test_a_folder_is_complete_or_absent_and_a_kill_leaves_nothing_for_long(tmp_path):
    script = (
        "import sys, os; from pathlib import Path; from ekd.files import make_folder\n"
        "make_folder(Path(sys.argv[1]), lambda f: ((f / 'half').write_text('x'), os.kill(os.getpid(), 9)))"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "other")], check=False)
    assert killed.returncode == -9 and not (tmp_path / "other").exists()
    (left,) = tmp_path.glob(".other.aside")
    with FileLock(tmp_path / ".other.lock"):  # as a living process holds it
        clear_killed(tmp_path)
        assert left.exists()
    make_folder(tmp_path / "mine", fill)  # the next start, of a neighbour even
    assert not left.exists() and is_complete(tmp_path / "mine")
    with pytest.raises(OSError, match="full"):
        make_folder(tmp_path / "mine", failing)
    assert is_complete(tmp_path / "mine") and not list(tmp_path.glob("*.aside")), "the old one stays"
    make_folder(tmp_path / "mine", failing, again=False)  # there is nothing to do


def failing(folder):
    fill(folder)
    raise OSError("the disk is full")
