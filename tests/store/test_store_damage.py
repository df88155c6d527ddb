"""What is damaged is named; the rest stays usable; what cannot be written says so and loses nothing."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from conftest import collector
from fake_traces import fake_trace, same
from hypothesis import given, settings
from hypothesis import strategies as st

from ekd.data.cached import TraceData
from ekd.files import home
from ekd.store import manifest
from ekd.store.address import Address
from ekd.store.log import fold, whole_manifest
from ekd.store.repair import repair, verify
from ekd.store.store import Store

ORIGIN = {"vocab": 1000, "teacher": "nobody"}
TRACES = [fake_trace(seed, rows=20) for seed in range(12)]


def two_shards(folder: Path | Address) -> Path | Address:
    store = Store.create(folder, ORIGIN)
    store.append(TRACES[:6])
    store.append(TRACES[6:])
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return two_shards(tmp_path / "s")


@pytest.fixture
def place(root: Path | Address) -> Path | Address:
    """A folder, and two kinds of address."""
    return two_shards(root / "s")


def shards(folder: Path) -> list[Path]:
    """In the order in which they were written."""
    return [folder / "shards" / entry["file"] for entry in whole_manifest(folder)["shards"]]


def name_only_the_first(folder: Path) -> None:
    folded = fold(folder)
    manifest.write_manifest(folder, {**folded, "shards": folded["shards"][:1]})


def readable(folder: Path) -> set[str]:
    store, good = Store(folder), set()
    for key in sorted(store.keys()):
        try:
            good.add(store[key].key)
        except ValueError as error:
            assert key in str(error)
            assert ".arrows" in str(error)
            assert "repair" in str(error)
    return good


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 0x10
    file.write_bytes(bytes(data))
    shutil.rmtree(home() / "copies", ignore_errors=True)  # what lies at an address is read again


def keys(traces: list) -> set[str]:
    return {trace.key for trace in traces}


@settings(deadline=None, max_examples=20)
@given(where=st.floats(0, 1, exclude_max=True))
def test_a_flipped_bit_anywhere_is_found_and_harms_at_most_its_shard(tmp_path_factory, where):
    folder = tmp_path_factory.mktemp("d") / "s"
    store = Store.create(folder, ORIGIN)
    store.append(TRACES[:6])
    store.append(TRACES[6:])
    before = {key: store[key] for key in sorted(store.keys())}
    file = shards(folder)[0]
    flip(file, int(where * file.stat().st_size))
    assert any(file.name in line for line in verify(folder).damage)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        good = readable(folder)
        damaged = Store(folder)
        assert all(same(damaged[key], before[key]) for key in good)  # never a wrong trace
    assert good >= keys(TRACES[6:])
    repair(folder)
    assert verify(folder).damage == []
    assert Store(folder).keys() == good
    Store.create(folder, ORIGIN).append(TRACES)
    assert verify(folder).traces == 12


def test_a_flip_in_one_trace_leaves_its_neighbours(place):
    file = shards(place)[0]
    flip(file, file.stat().st_size - 200)  # rows of the last trace
    assert readable(place) == keys(TRACES) - {TRACES[5].key}
    assert any(TRACES[5].key in line for line in verify(place).damage)


def test_a_truncated_shard_keeps_what_came_before_the_cut(folder):
    file = shards(folder)[0]
    with file.open("r+b") as handle:
        handle.truncate(file.stat().st_size - 600)
    with pytest.warns(UserWarning, match=f"{file.name} was cut off; left out: .*{TRACES[5].key}"):
        have = Store(folder).keys()
    assert keys(TRACES[:3]) | keys(TRACES[6:]) <= have < keys(TRACES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert readable(folder) == have
    assert TRACES[5].key in " ".join(repair(folder))
    assert Store(folder).keys() == have
    assert (folder / "damaged" / file.name).exists()


@pytest.mark.parametrize("size", [0, 10, 500])
def test_a_shard_of_which_nothing_is_left_is_named(folder, size):
    file = shards(folder)[0]
    with file.open("r+b") as handle:
        handle.truncate(size)
    with pytest.warns(UserWarning, match=f"{file.name} cannot be read"):
        assert Store(folder).keys() == keys(TRACES[6:])
    assert "lost: all 6" in " ".join(repair(folder))
    assert verify(folder).traces == 6


def test_a_missing_shard_is_named(folder):
    file = shards(folder)[0]
    file.unlink()
    assert f"{file.name}: the file is missing" in verify(folder).damage[0]
    with pytest.warns(UserWarning, match=file.name):
        assert Store(folder).keys() == keys(TRACES[6:])


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": "ekd-store"}', "\udcff"])
def test_a_broken_manifest_is_one_sentence(place, content):
    (place / manifest.NAME).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"manifest\.json is (damaged|not the manifest)") as caught:
        Store(place)
    assert "\n" not in str(caught.value)


@settings(deadline=None, max_examples=20)
@given(where=st.floats(0, 1, exclude_max=True))
def test_a_manifest_with_a_flipped_bit_is_refused_and_rebuilt(tmp_path_factory, where):
    folder = tmp_path_factory.mktemp("m") / "s"
    Store.create(folder, ORIGIN).append(TRACES[:2])
    file = folder / manifest.NAME
    flip(file, int(where * file.stat().st_size))
    try:
        manifest.read_manifest(folder)
    except manifest.DamagedManifest:
        repair(folder)
    except ValueError as error:
        assert "newer ekd" in str(error) or "not the manifest" in str(error)  # the flip made it another thing
        file.unlink()
        repair(folder)
    assert Store(folder).keys() == keys(TRACES[:2])
    assert Store(folder).origin == ORIGIN


def test_a_lost_manifest_is_rebuilt_from_the_shards(place):
    (place / manifest.NAME).unlink()
    for use in (Store, lambda path: Store.create(path, {**ORIGIN, "teacher": "another"})):
        with pytest.raises(ValueError, match=r"it is missing.*repair"):
            use(place)
    assert "rebuilt from 2 shards" in repair(place)[0]
    assert verify(place) == (12, 240, [], [])
    assert Store.create(place, ORIGIN).keys() == keys(TRACES)


def test_a_newer_store_is_refused_and_left_alone(place):
    newer = {**manifest.read_manifest(place), "version": manifest.VERSION + 1}
    text = json.dumps({**newer, "checksum": manifest.checksum(newer)})
    (place / manifest.NAME).write_text(text)
    for use in (Store, repair, verify, lambda path: Store.create(path, ORIGIN)):
        with pytest.raises(ValueError, match=r"newer ekd .*update ekd"):
            use(place)
    assert (place / manifest.NAME).read_text() == text


def test_a_folder_that_is_no_store(tmp_path):
    with pytest.raises(ValueError, match=r"not a trace store: it has no manifest\.json"):
        Store(tmp_path)
    with pytest.raises(ValueError, match="not a trace store"):
        Store(tmp_path / "nowhere")


def test_a_place_where_no_folder_can_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be made a trace store"):
        Store.create(tmp_path / "file", ORIGIN)


def test_unfinished_and_unnamed_files_of_a_killed_writer(place):
    whole = shards(place)[1].read_bytes()
    name_only_the_first(place)
    (place / "shards" / "abc.arrows.tmp").write_bytes(whole[:100])
    (place / "shards" / ("0" * 24 + ".arrows")).write_bytes(whole[:-8])  # its name is not its hash
    assert Store(place).keys() == keys(TRACES[:6])
    store = Store.create(place, ORIGIN)
    assert store.keys() == keys(TRACES)  # a whole shard is taken in, whoever wrote it
    assert not list((place / "shards").glob("*.tmp"))
    assert verify(place)[2:] == ([], ["0" * 24 + ".arrows is not named yet (its writer is at work, or was killed)"])


def test_a_shard_that_others_have_made_again_in_part(place):
    file = shards(place)[1]
    whole = file.read_bytes()
    name_only_the_first(place)
    file.unlink()
    Store.create(place, ORIGIN).append(TRACES[6:8])
    file.write_bytes(whole)
    assert Store.create(place, ORIGIN).keys() == keys(TRACES)
    assert verify(place) == (12, 240, [], [])


@pytest.mark.parametrize("spoil", [lambda line: line[:40] + b"7" + line[41:], lambda line: b"[" * 9999 + b"\n" + line])
def test_a_damaged_log_is_one_sentence_and_rebuilt(place, spoil):
    (file,) = (place / "log").iterdir()
    file.write_bytes(spoil(file.read_bytes()))
    for use in (Store, verify, lambda path: Store.create(path, ORIGIN)):
        with pytest.raises(ValueError, match=r"is damaged .*repair.* rebuilds it from the shards"):
            use(place)
    assert "rebuilt from 2 shards" in repair(place)[0]
    assert verify(place) == (12, 240, [], [])


def test_half_a_line_of_a_killed_writer_names_no_shard_and_what_it_would_have_named_is_taken_in(place):
    (file,) = (place / "log").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    assert Store(place).keys() == keys(TRACES[:6])
    assert Store.create(place, ORIGIN).keys() == keys(TRACES)
    assert verify(place) == (12, 240, [], [])


@pytest.mark.parametrize("room", [0, 300, 3000])
def test_a_full_disk_loses_nothing_and_says_so(folder, room):
    """RLIMIT_FSIZE fails a write in the middle of a file, as a full disk does."""
    script = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from fake_traces import fake_trace
from ekd.store.store import Store
store = Store.create({str(folder)!r}, {ORIGIN!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))
try:
    store.append([fake_trace(seed, rows=200) for seed in range(100, 110)])
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "10 traces could not be saved" in done.stdout
    assert "the 12 saved before are whole" in done.stdout
    assert not list((folder / "shards").glob("*.tmp"))
    assert verify(folder) == (12, 240, [], [])
    Store.create(folder, ORIGIN).append([fake_trace(100)])
    assert verify(folder).traces == 13


@pytest.fixture
def tiny_disk(tmp_path: Path):
    """A real file system of 256 KiB, where the machine lets us mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], check=False).returncode
    ):
        pytest.skip("mounting a file system needs root")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_disk_that_runs_full_and_is_then_made_roomier(tiny_disk):
    store = Store.create(tiny_disk / "s", ORIGIN)
    many = [fake_trace(seed, rows=100) for seed in range(300, 400)]
    with pytest.raises(ValueError, match=r"No space left on device.*saved before are whole"):
        for at in range(0, len(many), 5):
            store.append(many[at : at + 5])
    saved = len(store)
    assert 0 < saved < 100
    assert verify(tiny_disk / "s")[0::2] == (saved, [])
    subprocess.run(["mount", "-o", "remount,size=4m", tiny_disk], check=True)
    store.append(many)
    assert verify(tiny_disk / "s").traces == 100


def test_a_read_only_store_can_be_read_but_not_extended(tiny_disk):
    Store.create(tiny_disk / "s", ORIGIN).append(TRACES[:6])
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)
    store = Store.create(tiny_disk / "s", ORIGIN)
    assert readable(tiny_disk / "s") == keys(TRACES[:6])
    assert verify(tiny_disk / "s").traces == 6
    with pytest.raises(ValueError, match=r"could not be saved .*Read-only file system"):
        store.append(TRACES)
    with pytest.raises(ValueError, match="cannot be made a trace store"):
        Store.create(tiny_disk / "new", ORIGIN)


@pytest.mark.parametrize("complete", [True, False])
def test_a_read_only_store_is_trained_on_when_it_is_complete(tmp_path, tiny_disk, complete):
    store = tmp_path / "s"
    made = collector(store=str(store))
    made.collect("train", 4)
    if complete:
        made.collect("val", 2)
    subprocess.run(["mount", "-o", "remount,size=8m", tiny_disk], check=True)
    shutil.copytree(store, tiny_disk / "s")
    (tiny_disk / "s" / ".collecting.lock").unlink(missing_ok=True)
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)
    data = TraceData(
        collector=collector(store=str(tiny_disk / "s")), train_problems=4, val_problems=2, val_split="val",
        samples=None, max_tokens=500, packing=False, temperature=1.0, seed=0, workers=0,
    )  # fmt: skip
    if not complete:
        with pytest.raises(ValueError, match=r"lacks some of the traces and cannot be written .*Read-only file system"):
            data.prepare_data()
        return
    data.prepare_data()
    data.setup("fit")
    assert sum(batch.mask.any(1).sum() for batch in data.train_dataloader()) == 4
    assert len(data.collected["val"].keys) == 2
