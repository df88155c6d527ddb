"""python -m ekd.store ..., the tokenizer check, merging, exporting, importing, and what is certain of an entropy."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from fake_traces import fake_trace, same
from hypothesis import given, settings
from hypothesis import strategies as st

from ekd.models.load import load_tokenizer
from ekd.store import certainty, foreign
from ekd.store.__main__ import main
from ekd.store.inspection import store_summary
from ekd.store.manifest import read_manifest
from ekd.store.presence import Presence
from ekd.store.repair import verify
from ekd.store.shard import part
from ekd.store.store import Store
from ekd.store.tokenizer import check_tokenizer, tokenizer_fingerprint
from ekd.store.unsaved import Unsaved

REAL = Path(__file__).parents[1] / "fixtures" / "store"
ORIGIN = {"vocab": 1000, "teacher": "nobody"}
TRACES = [fake_trace(seed, rows=20) for seed in range(10)]


@pytest.fixture
def path(tmp_path):
    Store.create(tmp_path / "s", ORIGIN).append(TRACES)
    return tmp_path / "s"


@pytest.fixture
def place(root):
    """In a folder, and at two kinds of address."""
    Store.create(root / "s", ORIGIN).append(TRACES)
    return root / "s"


def test_a_store_of_today_can_be_read_tomorrow():
    """20 solutions of GSM8K as SmolLM2 sees them, written by store version 1: these numbers must never change."""
    assert verify(REAL) == (20, 2148, [], [])
    store = Store(REAL)
    trace = store[f"{0:032x}"]
    assert trace.ids[:4].tolist() == [62, 788, 2068, 67]
    assert trace.logprobs[:4] == pytest.approx([-1.3944411, -1.6140796, -2.8062887, -3.3123116], abs=1e-6)
    assert trace.entropy[:3] == pytest.approx([3.4240103, 0.0034086225, 0.044969779], rel=1e-6)
    assert sum(int(store[key].ids.astype(np.int64).sum()) for key in sorted(store.keys())) == 130069948


def test_real_rows_take_less_than_3_6_bytes_an_entry_all_included(tmp_path):
    old = Store(REAL)
    Store.create(tmp_path / "s", old.origin).append([old[key] for key in sorted(old.keys())])
    size = sum(file.stat().st_size for file in (tmp_path / "s").rglob("*") if file.is_file())
    entries = sum(len(old[key].ids) for key in sorted(old.keys()))
    assert size / entries < 3.0
    assert all(
        same(old[key], Store(tmp_path / "s")[key]) for key in sorted(old.keys())
    )  # packing again changes nothing


def test_verify_says_what_is_there_and_its_exit_code_tells(path, capsys):
    assert main(["verify", str(path)]) == 0
    assert "10 sound traces, 200 response tokens; no damage" in capsys.readouterr().out
    file = next((path / "shards").iterdir())
    data = bytearray(file.read_bytes())
    data[-300] ^= 1
    file.write_bytes(data)
    assert main(["verify", str(path)]) == 1
    out = capsys.readouterr().out
    assert f"{file.name}: trace {TRACES[9].key} is damaged" in out
    assert "9 sound traces" in out
    assert main(["inspect", str(path)]) == 0
    assert "180 of responses" in capsys.readouterr().out
    assert main(["repair", str(path)]) == 0
    assert TRACES[9].key in capsys.readouterr().out
    assert main(["verify", str(path)]) == 0


@pytest.mark.parametrize("command", [["verify"], ["inspect"], ["repair"], ["export", "-o", "x"]])
def test_a_folder_that_is_no_store_is_one_sentence(tmp_path, command, capsys):
    assert main([command[0], str(tmp_path), *command[1:]]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_program_runs_as_a_module(path):
    done = subprocess.run(
        [sys.executable, "-m", "ekd.store", "verify", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "no damage" in done.stdout


def test_inspect_counts_and_shows_forks(path, capsys):
    assert main(["inspect", str(path), "--topk", "20"]) == 0
    out = capsys.readouterr().out
    assert "10 in 1 shards; 5 ended by themselves" in out
    assert "midpoints" not in out  # exact entropies need no bounds
    row = int(TRACES[0].entropy.argmax())
    assert f"⟨{TRACES[0].response_ids[row]}⟩[{TRACES[0].entropy[row]:.1f}" in out.replace("\n", "")
    totals, damage = store_summary(Store(path), 20, 70, 80)
    assert damage == []
    assert totals.entries == sum(len(trace.ids) for trace in TRACES)
    assert totals.unmatched == sum(int((~trace.valid).sum()) for trace in TRACES)
    assert totals.histogram.sum() == totals.rows - totals.unmatched


def test_inspect_says_how_certain_inexact_entropies_are(tmp_path, capsys):
    Store.create(tmp_path / "s", ORIGIN).append([fake_trace(1, rows=50, exact=False)])
    assert main(["inspect", str(tmp_path / "s")]) == 0
    assert "topk k=20% for" in capsys.readouterr().out


def test_inspect_with_a_tokenizer_shows_text(tmp_path, capsys):
    tokenizer = load_tokenizer("tiny")
    Store.create(tmp_path / "s", {"vocab": len(tokenizer)}).append([fake_trace(1, vocab=len(tokenizer))])
    assert main(["inspect", str(tmp_path / "s"), "--tokenizer", "tiny"]) == 0
    assert "⟨" not in capsys.readouterr().out


@pytest.mark.parametrize("bad", [["--topk", "0"], ["--bucket", "80", "70"]])
def test_impossible_percentages_are_refused(path, bad, capsys):
    assert main(["inspect", str(path), *bad]) == 2
    assert "percentages" in capsys.readouterr().err


def test_merge_keeps_every_trace_once_to_the_bit(root, place):
    Store.create(root / "t", ORIGIN).append([*TRACES[5:], *(fake_trace(seed) for seed in range(20, 23))])
    assert main(["merge", str(place), str(root / "t"), "-o", str(root / "u")]) == 0
    one, merged = Store(place), Store(root / "u")
    assert len(merged) == 13
    assert len(merged.shards) == 1
    assert all(same(one[trace.key], merged[trace.key]) for trace in TRACES)


def test_compact_folds_the_logs_and_takes_in_what_killed_writers_left(place, capsys):
    store = Store(place)
    with Presence(place) as own:
        Unsaved(store, own).add(part(fake_trace(20), store.layout))
        own.lock.release()  # as the system does for the dead
        assert main(["compact", str(place)]) == 0
    assert "1 were left by killed writers" in capsys.readouterr().out
    assert not list((place / "log").iterdir()) and fake_trace(20).key in Store(place)
    assert len(read_manifest(place)["shards"]) == len(Store(place).shards)


def test_stores_of_two_origins_are_not_merged(tmp_path, path, capsys):
    Store.create(tmp_path / "t", {**ORIGIN, "teacher": "somebody"})
    assert main(["merge", str(path), str(tmp_path / "t"), "-o", str(tmp_path / "u")]) == 2
    assert "teacher: 'somebody' in the store, 'nobody' asked for" in capsys.readouterr().err
    assert not (tmp_path / "u").exists()


@pytest.mark.parametrize("name", ["x.parquet", "x.jsonl"])
def test_an_export_is_plain_columns(tmp_path, place, name):
    assert main(["export", str(place), "-o", str(tmp_path / name)]) == 0
    if name.endswith("jsonl"):
        rows = [json.loads(line) for line in (tmp_path / name).read_text("utf-8").splitlines()]
    else:
        table = pq.read_table(tmp_path / name)
        assert json.loads(table.schema.metadata[b"ekd.origin"]) == ORIGIN
        rows = table.to_pylist()
    assert [row["key"] for row in rows] == sorted(trace.key for trace in TRACES)
    row, trace = rows[3], Store(place)[TRACES[3].key]
    assert row["response_ids"] == trace.response_ids.tolist()
    assert sum(row["counts"]) == len(row["ids"]) == len(row["logprobs"])
    assert np.allclose(row["logprobs"], trace.logprobs)
    assert [tail is None for tail in row["log_tail"]] == np.isneginf(trace.log_tail).tolist()


def foreign_example(every_position: bool) -> dict:
    """Prompt 1 2, response 3 4; the teacher's top 2 at each response token, or at each position."""
    ids, logs = [[3, 9], [8, 7]], np.log([[0.6, 0.3], [0.5, 0.4]]).tolist()
    if every_position:  # position t's output is for token t + 1
        ids, logs = [[5, 6], *ids, [1, 2]], [logs[0], *logs, logs[0]]
    return {"input_ids": [1, 2, 3, 4], "labels": [-100, -100, 3, 4], "top_ids": ids, "top_logprobs": logs}


@pytest.mark.parametrize("every_position", [False, True])
def test_a_foreign_row_is_found_by_its_token(every_position):
    trace = foreign.trace(foreign_example(every_position), foreign.Columns(), 10, 0)
    assert trace.prompt_ids.tolist() == [1, 2]
    assert trace.response_ids.tolist() == [3, 4]
    assert trace.ids.tolist() == [3, 9, 4]  # 4 is not among the second row's ids: an unmatched row, never a guess
    assert trace.valid.tolist() == [True, False]
    assert np.exp(trace.log_tail[0]) == pytest.approx(0.1)
    tail = -0.1 * np.log(0.1) + 0.1 * np.log(8) / 2
    assert trace.entropy[0] == pytest.approx(-0.6 * np.log(0.6) - 0.3 * np.log(0.3) + tail, abs=1e-6)
    assert not trace.exact


@pytest.mark.parametrize("kind", ["folder", "parquet", "jsonl"])
def test_a_hugging_face_dataset_becomes_a_store(tmp_path, kind, capsys):
    dataset = Dataset.from_list([foreign_example(False), foreign_example(True)])
    source = tmp_path / ("d" if kind == "folder" else f"d.{kind}")
    if kind == "folder":
        DatasetDict(train=dataset).save_to_disk(source)
    else:
        (dataset.to_parquet if kind == "parquet" else dataset.to_json)(source)
    arguments = ["--tokenizer", "tiny", "--vocab", "10", "--teacher", "a foreign one"]
    assert main(["import", str(source), "-o", str(tmp_path / "s"), *arguments]) == 0
    store = Store(tmp_path / "s")
    assert len(store) == 1  # the same tokens twice
    check_tokenizer(store.origin, load_tokenizer("tiny"))


BAD = [
    ({"top_ids": [[3, 9]]}, "2 response tokens, but 1 rows"),
    ({"top_ids": [[3], [8, 7]]}, "a row has 1 ids"),
    ({"top_ids": [[3, 3], [8, 7]]}, "1 different ones"),
    ({"top_ids": [[3, 10], [8, 7]]}, "'top_ids' holds 10; ids are whole numbers from 0 to 9"),
    ({"top_ids": [[3, -1], [8, 7]]}, "'top_ids' holds -1"),
    ({"top_ids": [[3, 2**70], [8, 7]]}, f"'top_ids' holds {2**70}"),
    ({"top_ids": [[3, 9.0], [8, 7]]}, r"'top_ids' holds 9\.0"),
    ({"top_ids": [[3, True], [8, 7]]}, "'top_ids' holds True"),
    ({"top_ids": [[3, None], [8, 7]]}, "'top_ids' holds None"),
    ({"top_ids": [3, 8]}, "'top_ids' holds 3 where a list is wanted"),
    ({"top_ids": None}, "'top_ids' holds None where a list is wanted"),
    ({"top_ids": [[], []], "top_logprobs": [[], [float("nan")]]}, "'top_logprobs' holds nan"),
    ({"top_logprobs": [[-0.1, -0.1], [-1, -2]]}, r"mass of 1\.8"),
    ({"top_logprobs": [[-0.5, float("nan")], [-1, -2]]}, "'top_logprobs' holds nan; a logprob is a finite number"),
    ({"top_logprobs": [[-0.5, float("-inf")], [-1, -2]]}, "'top_logprobs' holds -inf"),
    ({"top_logprobs": [[0.5, -3], [-1, -2]]}, r"'top_logprobs' holds 0\.5"),
    ({"top_logprobs": [["-0.5", -3], [-1, -2]]}, "'top_logprobs' holds '-0.5'"),
    ({"top_logprobs": [[-(10**400), -3], [-1, -2]]}, "'top_logprobs' holds -1000"),
    ({"input_ids": [1, 2.5, 3, 4]}, r"'input_ids' holds 2\.5"),
    ({"input_ids": [1, 2**31, 3, 4]}, "'input_ids' holds 2147483648"),
    ({"labels": [-100, -100, -100, -100]}, "one response"),
    ({"labels": [-100, 2, -100, 4]}, "one response"),
    ({"labels": [4]}, "4 input ids, but 1 of 'labels'"),
    ({"labels": None}, "'labels' holds None"),
]


@pytest.mark.parametrize(("change", "says"), BAD)
def test_a_foreign_example_that_does_not_fit_is_named(change, says):
    with pytest.raises(ValueError, match=says):
        foreign.trace(foreign_example(False) | change, foreign.Columns(), 10, 0)


def test_a_foreign_dataset_without_the_columns_is_named():
    with pytest.raises(ValueError, match=r"it has no column 'top_ids'; it has input_ids"):
        foreign.trace({"input_ids": [1]}, foreign.Columns(), 10, 0)


IMPORT = ["--tokenizer", "tiny", "--vocab", "10", "--teacher", "a foreign one"]


def numbered(token: int) -> dict:
    return foreign_example(False) | {"input_ids": [token, 2, 3, 4]}


def test_bad_rows_are_named_by_file_and_line_and_the_good_ones_kept(tmp_path, capsys):
    source = tmp_path / "d.jsonl"
    lines = [json.dumps(row) for row in (numbered(5), *(foreign_example(False) | change for change, _ in BAD))]
    lines += ["", "{", "[1]", "[" * 100_000, json.dumps(numbered(6))]
    source.write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode() + b"\n\xff\n" + json.dumps(numbered(7)).encode())
    assert main(["import", str(source), "-o", str(tmp_path / "s"), *IMPORT]) == 1
    said = capsys.readouterr()
    assert len(Store(tmp_path / "s")) == 3
    assert f"3 traces; {len(BAD) + 4} rows are refused" in said.out
    refused = said.err.splitlines()
    assert len(refused) == len(BAD) + 4
    assert refused[0].startswith(f"{source}:2: 2 response tokens")
    assert refused[-1].startswith(f"{source}:{len(lines) + 1}: it is not a line of JSON")
    assert verify(tmp_path / "s").damage == []


def test_what_was_read_before_a_source_broke_is_kept(tmp_path):
    def breaks():
        yield "x:1", numbered(5)
        raise OSError("the disk is gone")

    store = Store.create(tmp_path / "s", {"vocab": 10})
    with pytest.raises(OSError, match="gone"):
        list(foreign.take(breaks(), foreign.Columns(), store))
    assert len(Store(tmp_path / "s")) == 1


def test_columns_of_another_name_are_not_told_a_million_times(tmp_path, capsys):
    source = tmp_path / "d.jsonl"
    source.write_text((json.dumps({"ids": [1]}) + "\n") * 1000)
    assert main(["import", str(source), "-o", str(tmp_path / "s"), *IMPORT]) == 2
    refused = capsys.readouterr().err.splitlines()
    assert len(refused) == 101
    assert refused[-1].startswith("error: the first 100 rows cannot be imported")


def test_a_list_in_a_json_file_is_read_by_element(tmp_path, capsys):
    source = tmp_path / "d.json"
    source.write_text(json.dumps([numbered(5), 3, numbered(6)], indent=1))
    assert main(["import", str(source), "-o", str(tmp_path / "s"), *IMPORT]) == 1
    assert capsys.readouterr().err == f"{source}, row 1: it is no object but 3\n"
    assert len(Store(tmp_path / "s")) == 2
    source.write_text("[1, ")
    assert main(["import", str(source), "-o", str(tmp_path / "t"), *IMPORT]) == 2
    assert capsys.readouterr().err.startswith(f"error: {source} is not JSON")
    assert not (tmp_path / "t").exists()


def test_a_damaged_row_group_costs_its_own_rows(tmp_path, capsys):
    source = tmp_path / "d.parquet"
    pq.write_table(pa.Table.from_pylist([numbered(at) for at in range(9)]), source, row_group_size=3, compression=None)
    column = pq.ParquetFile(source).metadata.row_group(1).column(0)
    data = bytearray(source.read_bytes())
    data[column.dictionary_page_offset or column.data_page_offset] ^= 0xFF
    source.write_bytes(data)
    assert main(["import", str(source), "-o", str(tmp_path / "s"), *IMPORT]) == 1
    assert capsys.readouterr().err.startswith(f"{source}, rows 3 to 5: the file is damaged")
    assert len(Store(tmp_path / "s")) == 6


@pytest.mark.parametrize("name", ["nothing.jsonl", "nothing.parquet", "nothing.json"])
def test_a_source_that_is_not_there_leaves_no_store(tmp_path, name, capsys):
    assert main(["import", str(tmp_path / name), "-o", str(tmp_path / "s"), *IMPORT]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_a_split_that_a_folder_lacks_is_named_with_those_it_has(tmp_path, capsys):
    DatasetDict(train=Dataset.from_list([numbered(5)])).save_to_disk(tmp_path / "d")
    assert main(["import", str(tmp_path / "d"), "-o", str(tmp_path / "s"), *IMPORT, "--split", "test"]) == 2
    assert "has no split 'test', it has train" in capsys.readouterr().err
    assert main(["import", str(tmp_path), "-o", str(tmp_path / "s"), *IMPORT]) == 2  # a folder of something else
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "s").exists()


class Words:
    """A tokenizer as far as a fingerprint looks."""

    def __init__(self, tokens: list[str], added: tuple[str, ...] = (), end: str = "<end>"):
        self.tokens, self.extra, self.eos_token = [*tokens, *added], added, end
        self.vocab_size = len(tokens)
        self.added_tokens_decoder = {len(tokens) + i: token for i, token in enumerate(added)}

    def get_vocab(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}


BASE = [f"w{i}" for i in range(9000)]


def origin(tokenizer: Words) -> dict:
    return {"tokenizer": json.loads(json.dumps(tokenizer_fingerprint(tokenizer)))}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (Words(BASE, ("<end>",)), Words(BASE, ("<end>",))),
        (Words(BASE, ("<end>",)), Words(BASE, ("<end>", "<tool>"))),  # 151,669 in 151,936
        (Words(BASE, ("<end>", "<tool>")), Words(BASE, ("<end>",))),
        (Words(BASE), Words(BASE, ("<end>", "<tool>"))),
        (Words(BASE, ("<end>",), end="<end>"), Words(BASE, ("<end>",), end="w3")),
    ],
)
def test_vocabularies_of_one_family_fit(theirs, ours):
    check_tokenizer(origin(theirs), ours)


@pytest.mark.parametrize(
    ("ours", "says"),
    [
        (Words(BASE[::-1], ("<end>",)), "9,001 tokens, this one 9,001, and their first 4,096 tokens are not the same"),
        (Words([*BASE[:8500], "x", *BASE[8501:]], ("<end>",)), "their first 9,000 tokens are not the same"),
        (Words(["a", "b"]), "9,001 tokens, this one 2"),
        (Words(BASE, ("<stop>",)), "id 9000 is '<end>' in the traces, '<stop>' here"),
        (Words(BASE, ("<a>", "<end>")), "id 9000 is '<end>' in the traces, '<a>' here"),
    ],
)
def test_another_vocabulary_is_refused_with_both_sizes(ours, says):
    with pytest.raises(ValueError, match=says):
        check_tokenizer(origin(Words(BASE, ("<end>",))), ours)


def test_a_store_without_a_fingerprint_is_refused():
    with pytest.raises(ValueError, match="no tokenizer fingerprint"):
        check_tokenizer({"vocab": 10}, Words(BASE))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 40), width=st.sampled_from([0.0, 0.05, 1.0]))
def test_what_is_called_certain_is_so_for_any_true_entropies(seed, n, width):
    random = np.random.default_rng(seed)
    least = random.exponential(1, n)
    most = least + random.uniform(0, width, n)
    sure_top, sure_bucket = certainty.topk(least, most, 20), certainty.bucket(least, most, 70, 80)
    if width == 0:
        assert sure_top.all()
        assert sure_bucket.all()
    decisions = []
    for _ in range(30):
        true = np.where(
            random.random(n) < 0.5, random.uniform(least, most), np.where(random.random(n) < 0.5, least, most)
        )
        top = np.zeros(n, bool)
        top[np.argsort(-true, kind="stable")[: max(int(np.ceil(0.2 * n)), 1)]] = True
        low, high = np.percentile(true, [70, 80])
        decisions.append((top, (true >= low) & (true <= high)))
    tops, buckets = (np.array(some) for some in zip(*decisions, strict=True))
    if len(np.unique(least)) == n:
        assert ((tops == tops[0]).all(0) | ~sure_top).all()
    assert ((buckets == buckets[0]).all(0) | ~sure_bucket).all()


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), most=st.sampled_from([1, 4, 1000]))
def test_the_true_entropy_lies_between_the_bounds(seed, most):
    trace = fake_trace(seed, unmatched=0.0, most=most)
    low, high = certainty.bounds(trace, 1000)
    assert (low <= trace.entropy + 1e-4).all()
    assert (trace.entropy <= high + 1e-4).all()
