"""Files of the user's own: each is read as what it is, and what nobody can have meant is refused with file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import collector, hf
from test_dataset import corpus, jsonl, write

from ekd.models.load import load_tokenizer
from ekd.types import Dataset


def texts(dataset: Dataset) -> list[str]:
    return [problem.solution for problem in dataset.problems("train")]


def test_a_corpus_reads_each_kind_of_file_as_what_it_is(tmp_path: Path) -> None:
    rows = [{"text": "abc"}, {"text": "def"}]
    for name in ("c.ndjson", "c.jsonl", "c.JSONL"):
        assert texts(corpus(train=write(tmp_path / name, *rows))) == ["abc", "def"]
    (tmp_path / "c.json").write_text(json.dumps(rows))
    assert texts(corpus(train=str(tmp_path / "c.json"))) == ["abc", "def"]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    assert texts(corpus(train=str(tmp_path / "c.parquet"))) == ["abc", "def"]
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfFirst doc.\n\nSecond doc.")
    assert texts(corpus(train=str(tmp_path / "bom.txt"))) == ["First doc.", "Second doc."]
    (tmp_path / "lines.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert texts(corpus(train=str(tmp_path / "lines.json"))) == ["abc", "def"]
    (tmp_path / "pages.txt").write_text("One page.\fAnother.")
    assert texts(corpus(train=str(tmp_path / "pages.txt"))) == ["One page.\fAnother."], "a form feed divides pages"
    for name, text in (("bad.json", "[{"), ("bad.parquet", "no")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=rf"{name} (is not JSON|cannot be read as Parquet)"):
            texts(corpus(train=str(tmp_path / name)))
    with pytest.raises(ValueError, match=r'c.parquet, document 1: "body" is missing .*; dataset.column says which'):
        texts(corpus(train=str(tmp_path / "c.parquet"), column="body"))


def test_a_corpus_is_the_beginning_of_a_stream(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{"text": f"document {i}"} for i in range(50)]), tmp_path / "train.parquet")
    dataset = corpus(hub=str(tmp_path), documents=5)
    assert texts(dataset) == [f"document {i}" for i in range(5)]
    with pytest.raises(ValueError, match=r"'nope' of .* could not be streamed"):
        texts(corpus(hub=str(tmp_path), hub_split="nope"))


def test_text_is_cut_by_tokens_and_ends_only_where_it_ends(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcdefghij\n\nklm")
    dataset = corpus(train=str(tmp_path / "a.txt"))
    requests = collector(dataset=dataset, teacher=hf(mode="score"), text_tokens=4).requests("train", None)
    assert [(r.problem_id, len(r.response_ids)) for r in requests] == [
        ("a.txt:1:1", 4), ("a.txt:1:2", 4), ("a.txt:1:3", 3), ("a.txt:2:1", 4),
    ]  # fmt: skip
    end = load_tokenizer("tiny").eos_token_id
    assert [end in r.response_ids for r in requests] == [False, False, True, True]
    traces = {t.problem_id: t.finish for t in hf(mode="score").trace(requests)}
    assert traces == {"a.txt:1:1": "length", "a.txt:1:2": "length", "a.txt:1:3": "stop", "a.txt:2:1": "stop"}
    with pytest.raises(ValueError, match=r"a.txt:1 is plain text.* set teacher.mode=score"):
        collector(dataset=dataset).requests("train", None)


# What a file can hold that is not meant


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (r'{"question": "What is \frac{1}{2}?", "answer": "2"}', r"where a backslash was meant"),
        (r'{"question": "q", "answer": "2", "solution": "It is \boxed{2}."}', r"where a backslash was meant"),
        (r'{"question": "the angle \theta", "answer": "2"}', r"where a backslash was meant"),
        (r'{"question": "2 \times 3", "answer": "6"}', r"where a backslash was meant"),
        (r'{"question": "x \rightarrow y", "answer": "6"}', r"where a backslash was meant"),
        (r'{"question": "q", "answer": "\frac{1}{2}"}', r"where a backslash was meant"),
        (r'{"question": "q", "answer": "\text{yes}"}', r"where a backslash was meant"),
        (r'{"question": "q", "answer": "\theta"}', r"where a backslash was meant"),
        (r'{"question": "q\f", "answer": "1"}', r"where a backslash was meant"),
        ("[" * 100_000, r"nested too deep"),
        (r'{"question": "\u0000", "answer": "2"}', r"where a backslash was meant"),
        (r'{"question": "half \ud83d here?", "answer": "2"}', r"half a character \(\\ud83d"),
        (r'{"question": "a?", "answer": NaN}', r'"answer" is NaN, which is no value: it is missing'),
        (r'{"question": "a?", "answer": Infinity}', r'"answer" is Infinity, which is no value'),
        (
            r'{"problem": "a?", "answer": "2"}',
            r'"question" is missing \(it has: problem, answer\); dataset.question says',
        ),
    ],
)
def test_what_json_ate_or_never_had_is_refused_with_file_and_line(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "p.jsonl").write_text('{"question": "fine", "answer": "1"}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"p.jsonl, line 2: .*" + said):
        jsonl(test=str(tmp_path / "p.jsonl")).problems("test")


def test_honest_tabs_lines_and_emoji_stay(tmp_path: Path) -> None:
    text = "a\tb\r\nnew line\n\tthen\n\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")
    file = write(tmp_path / "p.jsonl", {"question": text, "answer": "1", "solution": r"It is \frac{1}{2}, \theta."})
    assert jsonl(test=file).problems("test")[0].question == text


def test_columns_have_names_of_their_own(tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", {"problem": "a?", "solution": "so \\boxed{2}", "answer": "2"})
    assert jsonl(test=file, question="problem").problems("test")[0].question == "a?"


def test_a_question_is_asked_once_and_that_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    twice = [{"question": "a?", "answer": "2"}] * 2
    dataset = jsonl(test=write(tmp_path / "dup.jsonl", *twice))
    assert [p.id for p in dataset.problems("test")] == ["dup.jsonl:1"]
    dataset.problems("test")
    assert caplog.text.count("1 problems repeat another and are asked once (the first of them: dup.jsonl:2)") == 1
    other = write(tmp_path / "two.jsonl", *({"question": "a?", "answer": "2", "solution": s} for s in ("x", "y")))
    assert len(jsonl(test=other).problems("test")) == 2, "two solutions of one question are two texts"
    wrong = write(tmp_path / "three.jsonl", {"question": "a?", "answer": "2"}, {"question": "A?", "answer": "3"})
    with pytest.raises(ValueError, match=r"three.jsonl:1 and three.jsonl:2 are the same question with the answers"):
        jsonl(test=wrong).problems("test")


def test_two_files_of_one_name_have_ids_of_their_own(tmp_path: Path) -> None:
    files = [write(tmp_path / name / "train.jsonl", {"question": f"{name}?", "answer": "1"}) for name in "ab"]
    assert [p.id for p in jsonl(train=files).problems("train")] == ["a/train.jsonl:1", "b/train.jsonl:1"]
    deep = [write(tmp_path / name / "x" / "t.jsonl", {"question": f"{name}!", "answer": "1"}) for name in "ab"]
    assert [p.id for p in jsonl(train=deep).problems("train")] == ["a/x/t.jsonl:1", "b/x/t.jsonl:1"]
    documents = [write(tmp_path / name / "c.jsonl", {"text": f"text {name}"}) for name in "ab"]
    assert [p.id for p in corpus(train=documents).problems("train")] == ["a/c.jsonl:1", "b/c.jsonl:1"]


def test_an_empty_split_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    dataset = jsonl(train=str(tmp_path / "empty.jsonl"))
    with pytest.raises(ValueError, match=r"train split of dataset jsonl holds no problems"):
        collector(dataset=dataset).requests("train", None)


def test_the_presets_take_another_dataset(tmp_path: Path) -> None:
    """A preset sets nothing that only its own dataset has."""
    from test_method import method

    words = ("dataset=jsonl", "dataset.train=a.jsonl", "dataset.test=b.jsonl")
    for preset in ("tiny", "demo", "tiny_student"):
        assert method(f"experiment={preset}", *words).name == "vanilla"
