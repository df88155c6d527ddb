"""A store that a stranger made: nothing outside it is read, moved, overwritten or deleted, and nothing hangs.

What would hang or be lost without the checks is made of pipes and links, so each test is over in a moment.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest
from fake_traces import fake_trace

import ekd.trace
from ekd.eval.metrics import metrics_table
from ekd.files import read_json, replace
from ekd.mistakes import sentence
from ekd.outside import check_tree, visible
from ekd.store import manifest
from ekd.store.__main__ import main
from ekd.store.log import fold, line_of
from ekd.store.shard import SCHEMA, Shard, table_bytes, trace_checksum
from ekd.store.store import Store
from ekd.types import Failure

ORIGIN = {"vocab": 1000, "teacher": "nobody"}
TRACES = [fake_trace(seed, rows=20) for seed in range(4)]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    Store.create(tmp_path / "s", ORIGIN).append(TRACES)
    fold(tmp_path / "s")
    return tmp_path / "s"


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    file = tmp_path / "outside" / "precious.txt"
    file.parent.mkdir()
    file.write_text("mine")
    return file


def shard(store: Path) -> Path:
    return next((store / "shards").glob("*.arrows"))


def commands(store: Path, out: Path) -> list[list[str]]:
    named = [
        ["verify"],
        ["inspect"],
        ["repair"],
        ["export", "-o", str(out / "t.jsonl")],
        ["merge", "-o", str(out / "m")],
    ]
    return [[name, str(store), *rest] for name, *rest in named]


def all_refuse(store: Path, out: Path, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands(store, out):
        assert main(command) == 2, command
        error = capsys.readouterr().err
        assert says in error and len(error.splitlines()) == 1, command
    with pytest.raises(ValueError, match=says):
        Store.create(store, ORIGIN)


@pytest.mark.parametrize("name", ["../../outside/precious.txt", "/etc/passwd", "a/b.arrows", ".", "x.arrows", None, 7])
def test_a_manifest_may_name_only_shards_of_its_own_folder(store, precious, tmp_path, name, capsys):
    held = manifest.read_manifest(store)
    name = str(precious) if name == "/etc/passwd" else name
    held["shards"].append({"file": name, "sha256": "0" * 64, "bytes": 4, "traces": 1, "tokens": 1})
    manifest.write_manifest(store, held)
    for command in commands(store, tmp_path):
        if command[0] != "repair":
            assert main(command) == 2
            assert "is damaged" in capsys.readouterr().err
    assert main(["repair", str(store)]) == 0
    assert precious.read_text() == "mine"
    assert len(Store(store)) == len(TRACES)  # the manifest is made anew of what is there


@pytest.mark.parametrize("wrong", [{"bytes": -1}, {"bytes": 1 << 50}, {"traces": "many"}, {"sha256": None}])
def test_sizes_in_a_manifest_are_sizes(store, wrong, capsys):
    held = manifest.read_manifest(store)
    held["shards"][0] |= wrong
    manifest.write_manifest(store, held)
    assert main(["verify", str(store)]) == 2
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change", [{"origin": []}, {"shards": {}}, {"shards": ["x"]}, {"origin": {"vocab": 9, "temperatures": 3}}]
)
def test_a_manifest_of_another_shape_is_one_sentence(store, change, capsys):
    manifest.write_manifest(store, manifest.read_manifest(store) | change)
    for command in (["verify"], ["inspect"]):
        assert main([command[0], str(store)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_manifest_nested_beyond_reason(store, capsys):
    (store / manifest.NAME).write_text("[" * 100_000)
    assert main(["verify", str(store)]) == 2
    assert "is damaged" in capsys.readouterr().err


def test_a_linked_shards_folder_keeps_its_targets_files(store, tmp_path, precious, capsys):
    (store / "shards").rename(tmp_path / "real")
    (tmp_path / "outside" / "work.tmp").write_text("mine")
    (store / "shards").symlink_to(tmp_path / "outside")
    all_refuse(store, tmp_path, "is a link", capsys)
    assert sorted(file.name for file in (tmp_path / "outside").iterdir()) == ["precious.txt", "work.tmp"]


@pytest.mark.parametrize(
    "part", ["manifest.json", "lock", "damaged", "manifest.json.tmp", "scores", "unsaved", "writers"]
)
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_no_part_of_a_store_is_a_link_or_a_pipe(store, tmp_path, precious, part, kind, capsys):
    (store / part).unlink(missing_ok=True)
    (store / part).symlink_to(precious) if kind == "link" else os.mkfifo(store / part)
    all_refuse(store, tmp_path, "is a link" if kind == "link" else "neither a file nor a folder", capsys)
    assert precious.read_text() == "mine"


def a_log(store: Path, content: bytes) -> Path:
    file = store / "log" / "stranger.jsonl"
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_log_is_no_link_and_no_pipe(store, tmp_path, precious, kind, capsys):
    file = store / "log" / "stranger.jsonl"
    file.symlink_to(precious) if kind == "link" else os.mkfifo(file)
    all_refuse(store, tmp_path, "is a link" if kind == "link" else "neither a file nor a folder", capsys)


@pytest.mark.parametrize("file", ["../../outside/precious.txt", "x.arrows", None])
def test_a_log_names_only_shards_of_its_own_folder(store, precious, file, capsys):
    a_log(store, line_of({"file": file, "sha256": "0" * 64, "bytes": 4, "traces": 1, "tokens": 1}))
    with pytest.raises(ValueError, match="a line is not as it was written"):
        Store(store)
    assert main(["repair", str(store)]) == 0
    assert len(Store(store)) == len(TRACES) and precious.read_text() == "mine"


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "dangling"])
def test_a_shard_that_is_no_plain_file_is_damage_and_never_read(store, precious, kind, capsys):
    file = shard(store)
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)  # like /dev/zero, it never ends
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to(precious if kind == "link" else "/nowhere")
    assert main(["verify", str(store)]) == 1
    assert file.name in capsys.readouterr().out
    with pytest.warns(UserWarning, match="left out") if kind != "dangling" else pytest.warns(UserWarning):
        assert len(Store(store)) == 0
    assert main(["repair", str(store)]) == 0
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("name", ["0" * 24 + ".arrows", "0" * 24 + ".arrows.tmp"])
def test_a_pipe_among_the_shards_does_not_hang_the_next_writer(store, name):
    os.mkfifo(store / "shards" / name)
    Store.create(store, ORIGIN).append([fake_trace(9)])
    assert len(Store(store)) == len(TRACES) + 1


def test_a_new_file_is_never_written_through_a_link(store, precious):
    manifest_file = store / "other.json"
    (store / "other.json.tmp").symlink_to(precious)
    replace(manifest_file, b"{}")
    assert precious.read_text() == "mine"
    assert manifest_file.read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("payload", "response"),
    [(b"", 20), (b"\x00", 20), (b"\xff" * 40, 20), (b"\x7f" + b"\x01" * 60, 20), (b"\x00", -1), (b"", 1 << 30)],
)
def test_bytes_that_nobody_encoded_are_one_sentence_though_their_checksum_is_right(store, payload, response, capsys):
    about = ["k", "p", 0, "stop", True, 0, response, 20]
    begin = np.zeros(0, np.int32)
    row = [*about, trace_checksum(about, begin, payload, payload), payload, payload]
    data = table_bytes([row], {"ekd": json.dumps({"origin": ORIGIN, "prompts_begin": []})})
    name = f"{'ab' * 12}.arrows"
    (store / "shards" / name).write_bytes(data)
    held = manifest.read_manifest(store)
    held["shards"].append({"file": name, "sha256": "0" * 64, "bytes": len(data), "traces": 1, "tokens": 20})
    manifest.write_manifest(store, held)
    assert main(["verify", str(store)]) == 1
    assert "cannot be decoded" in capsys.readouterr().out


def test_columns_of_another_type_are_refused(store):
    file = store / "shards" / f"{'ab' * 12}.arrows"
    about = json.dumps({"origin": ORIGIN, "prompts_begin": []})
    batch = pa.record_batch([pa.array([1])] * len(SCHEMA), names=SCHEMA.names).replace_schema_metadata({"ekd": about})
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(ValueError, match="its columns are"):
        Shard(file)


def test_a_folder_is_looked_through_to_the_bottom(tmp_path, precious):
    (tmp_path / "run" / "student" / "deep").mkdir(parents=True)
    check_tree(tmp_path / "run", ["student", "absent"])
    (tmp_path / "run" / "student" / "deep" / "weights").symlink_to(precious)
    with pytest.raises(ValueError, match="is a link to"):
        check_tree(tmp_path / "run", ["student"])


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "\udcff"])
def test_what_is_no_json_is_a_sentence_with_its_file(tmp_path, content):
    (tmp_path / "run.json").write_text(content, errors="surrogateescape")
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        read_json(tmp_path / "run.json")


EVIL = "[bold]x[/nothing]\x1b[2J\x1b]0;owned\x07\x9b31m\u202eesrever\r"


def harmless(text: str) -> bool:
    return not set(text) & set("\x1b\x07\x9b\u202e\r") and "[bold]x[/nothing]" in text and "\\x1b[2J" in text


def test_what_steers_a_terminal_is_shown_and_everything_else_left():
    assert harmless(visible(EVIL))
    assert visible("\ud83d") == "\\ud83d"  # half a character cannot be printed at all
    for text in ("a\tb\n", "émoji 🎉 数学 ∑ שלום", "\\x1b"):
        assert visible(text) == text


def test_a_sentence_is_visible():
    assert harmless(sentence(ValueError(EVIL)) or "")


def test_a_strangers_store_steers_no_terminal(tmp_path, capsys):
    path = tmp_path / "s [red]"
    Store.create(path, {**ORIGIN, EVIL: EVIL}).append([TRACES[0]._replace(problem_id=EVIL), *TRACES[1:]])
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert harmless(shown) and "s [red]" in shown.replace("\n", "")
    file = next((path / "shards").iterdir())
    file.write_bytes(file.read_bytes()[:-400])
    with pytest.warns(UserWarning, match="cut off"):
        main(["inspect", str(path)])
    assert "\x1b" not in "".join(capsys.readouterr())
    line = json.dumps({"x\x1b[2J": 1})
    (tmp_path / "d.jsonl").write_text(line + "\n")
    given = ["--tokenizer", "tiny", "--vocab", "9", "--teacher", "t"]
    assert main(["import", str(tmp_path / "d.jsonl"), "-o", str(tmp_path / "t"), *given]) == 1
    assert "it has x\\x1b[2J" in capsys.readouterr().err


def test_what_a_server_says_of_a_failure_steers_no_terminal(monkeypatch, capsys, tmp_path):
    data = Mock(store=Store.create(tmp_path / "s", ORIGIN))
    data.collected = {"train": Mock(made=0, failures=[Failure("k", EVIL, EVIL)])}
    monkeypatch.setattr(ekd.trace, "build", lambda config: data)
    assert ekd.trace.main(Mock()) == 1
    assert harmless(capsys.readouterr().out.splitlines()[2])


def test_a_table_of_an_evaluation_steers_no_terminal(capsys):
    from rich import print as show

    show(metrics_table(EVIL, [("who", EVIL)]))
    assert harmless(capsys.readouterr().out.replace("\n", ""))
