"""A store at an address: what is told of it beside what tests of folders say there, too (they take `root`)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from threading import Thread

import fsspec
import pytest
from conftest import collector
from fake_traces import fake_trace
from fsspec.implementations.memory import MemoryFileSystem

from ekd.data.cached import TraceData
from ekd.files import home, machine
from ekd.store import location as places
from ekd.store.__main__ import main
from ekd.store.address import Address
from ekd.store.location import AddressLock, location
from ekd.store.log import whole_manifest
from ekd.store.repair import repair, verify
from ekd.store.store import Store

ORIGIN = {"vocab": 1000, "teacher": "nobody"}
TRACES = [fake_trace(seed, rows=20) for seed in range(12)]


@pytest.fixture(params=["memory", "s3"])
def top(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    start = request.getfixturevalue("s3") if request.param == "s3" else "memory://store"
    return Address(f"{start}/{tmp_path.parent.name}-{tmp_path.name}")


@pytest.fixture
def place(top: Address) -> Address:
    store = Store.create(top / "s", ORIGIN)
    store.append(TRACES[:6])
    store.append(TRACES[6:])
    return top / "s"


def first(place: Address) -> Address:
    """The shard that holds the first trace."""
    entries = whole_manifest(place)["shards"]
    return place / "shards" / next(entry["file"] for entry in entries if TRACES[0].key in entry["keys"])


def test_words_of_a_path(top):
    assert location("file:///a/b") == Path("/a/b") and location("~/s") == Path.home() / "s"
    file = top / "a" / "b.txt"
    assert (file.name, file.stem, file.parent, str(location(str(file)))) == ("b.txt", "b", top / "a", str(file))
    assert not file.exists() and list(file.parent.iterdir()) == [] and not file.parent.is_dir()
    file.write_text("one")
    assert (file.read_text(), file.read_bytes(1), file.read_bytes(3), file.stat().st_size) == ("one", b"ne", b"", 3)
    assert list((top / "a").glob("*.txt")) == [file] and list((top / "a").glob("*.md")) == []
    with pytest.raises(FileExistsError):
        file.create(b"two")
    file.unlink()
    file.unlink(missing_ok=True)
    assert not file.exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("s3://me:word@bucket/s", "carries no key, password or query"),
        ("s3://bucket/s?token=word", "carries no key, password or query"),
        ("nothing://bucket/s", "is no address of a folder"),
        ("s3://", "is no address of a folder"),
    ],
)
def test_an_address_that_cannot_be_is_one_sentence_without_its_secret(text, says, capsys):
    with pytest.raises(ValueError, match=says) as caught:
        Store(text)
    assert "word" not in str(caught.value).replace("password", "")
    with pytest.raises(SystemExit):
        main(["verify", text])
    assert "word" not in capsys.readouterr().err.replace("password", "")


def test_a_client_that_is_not_installed_is_one_sentence(monkeypatch):
    def missing(*_, **__):
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(ValueError, match=r"gs:// needs a package that is not there .*pip install 'ekd\[gcs\]'"):
        Store("gs://bucket/s")


class Careless(MemoryFileSystem):
    """Writes over whatever is there."""

    protocol = "careless"
    store: dict = {}  # noqa: RUF012 (as fsspec has it)

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        super().pipe_file(path, value)


def test_where_a_second_writer_would_not_be_told_nobody_writes(tmp_path):
    fsspec.register_implementation("careless", Careless, clobber=True)
    with pytest.raises(ValueError, match=r"careless://a/s cannot be written: .*trace into a folder and copy it there"):
        Store.create("careless://a/s", ORIGIN)


def test_no_key_is_written_anywhere(s3, caplog, tmp_path):
    place = Address(f"{s3}/secrets")
    made = collector(store=str(place))
    made.collect("train", 2)
    said = [*(str(made.origin()), str(made.open().path), caplog.text)]
    stack = [place]
    while stack:
        folder = stack.pop()
        for one in folder.listing():
            if one.folder:
                stack.append(folder / one.name)
            else:
                said.append((folder / one.name).read_bytes().decode("latin1"))
    assert len(said) > 5 and "hidden-from-everybody" not in "".join(said)


def test_a_server_that_does_not_answer_is_one_sentence(s3, monkeypatch, capsys):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    assert main(["verify", f"{s3}/s"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "127.0.0.1:9" in error and len(error.splitlines()) == 1
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_who_looks_for_keys_fetches_no_shard_and_who_reads_fetches_each_once(place, monkeypatch):
    fetched, read = [], Address.read_bytes
    monkeypatch.setattr(Address, "read_bytes", lambda self, *at: fetched.append(self.name) or read(self, *at))
    store = Store(place)
    assert store.keys() == {trace.key for trace in TRACES}
    assert not [name for name in fetched if name.endswith(".arrows")]
    for _ in range(2):
        for other in (store, Store(place)):
            assert [other[trace.key].key for trace in TRACES] == [trace.key for trace in TRACES]
    assert sorted(name for name in fetched if name.endswith(".arrows")) == sorted(store.shards)


@pytest.mark.parametrize("left", [None, 0, 500])
def test_a_shard_that_is_gone_or_cut_is_named_mended_and_made_again(place, left):
    file = first(place)
    file.unlink() if left is None else file.write_bytes(file.read_bytes()[:left])
    shutil.rmtree(home() / "copies", ignore_errors=True)
    with pytest.raises(ValueError, match=f"{file.name} cannot be read.*ekd.store repair {place}"):
        Store(place)[TRACES[0].key]
    assert any(file.name in line for line in verify(place).damage)
    assert "lost: all 6" in " ".join(repair(place))
    assert verify(place) == (6, 120, [], [])
    Store.create(place, ORIGIN).append(TRACES)
    assert verify(place).traces == 12


def test_one_writer_at_a_time(top):
    inside, most, done = [0], [0], []

    def write() -> None:
        for _ in range(4):
            with AddressLock(top):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                (top / "x").write_bytes(b"1")
                inside[0] -= 1
                done.append(1)

    threads = [Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most[0], len(done)) == (1, 12)
    assert len(list((top / "lock").iterdir())) <= 2


def test_the_lock_of_a_dead_process_is_taken_at_once_here_and_after_a_while_elsewhere(top, monkeypatch):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (top / "lock" / f"{7:012d}").create(f"{machine()}-{gone.pid}".encode())
    with AddressLock(top) as held:
        assert held.own.name == f"{8:012d}"
    (top / "lock" / f"{9:012d}").create(b"elsewhere.1-1")
    monkeypatch.setattr(places, "PATIENCE", 0.5)
    with pytest.raises(TimeoutError, match="is held by another process"), AddressLock(top):
        pass
    monkeypatch.setattr(places, "STALE", 0.2)
    with AddressLock(top) as held:
        assert held.own.name == f"{10:012d}"


def test_one_that_comes_late_gives_way(top):
    """It saw number 1 free and creates 2, when 2 has come and gone and 3 is held."""
    (top / "lock" / f"{3:012d}").create(b"another")
    late = AddressLock(top)
    assert not late._takes(2) and [file.name for file in (top / "lock").iterdir()] == [f"{3:012d}"]


def test_processes_write_one_store_together(s3):
    place = f"{s3}/together"
    code = f"""
import random, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from fake_traces import fake_trace
from ekd.store.store import Store
mine = random.Random(int(sys.argv[1])).sample(range(12), 12)
store = Store.create({place!r}, {ORIGIN!r})
for at in range(0, 12, 3):
    store.append([fake_trace(seed, rows=20) for seed in mine[at : at + 3]])
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, str(n)]) for n in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert verify(place)[0::2] == (12, [])
    assert Store(place).keys() == {trace.key for trace in TRACES}


@pytest.mark.parametrize("workers", [0, 2])
def test_traces_are_collected_and_trained_on(top, workers):
    def data() -> TraceData:
        return TraceData(
            collector=collector(store=str(top / "s")), train_problems=6, val_problems=2, val_split="val", samples=None,
            max_tokens=500, packing=False, temperature=1.0, seed=0, workers=workers,
        )  # fmt: skip

    made, again = data(), data()
    for one in (made, again):
        one.prepare_data()
        one.setup("fit")
    assert [sum(c.made for c in one.collected.values()) for one in (made, again)] == [8, 0]
    assert not (home() / "traces").exists()  # where a store without a name would be
    assert sum(int(batch.mask.any(1).sum()) for batch in again.train_dataloader()) == 6
    assert not list((top / "s" / "writers").iterdir())
    assert verify(top / "s").traces == 8


def test_the_commands_take_addresses(place, top, tmp_path, capsys):
    for command in (["verify"], ["inspect"], ["compact"], ["repair"]):
        assert main([*command, str(place)]) == 0
    assert main(["merge", str(place), "-o", str(top / "merged")]) == 0
    assert main(["merge", str(top / "merged"), "-o", str(tmp_path / "here")]) == 0
    assert main(["export", str(place), "-o", str(tmp_path / "t.jsonl")]) == 0
    assert verify(tmp_path / "here")[0::2] == (12, [])
    assert "12 sound traces" in capsys.readouterr().out
