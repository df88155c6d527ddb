"""Plain text to distil on: a document is a problem without question and answer whose solution is the text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ekd.dataset.lines import Record, checked_unicode, distinct_names, read_problems, text
from ekd.dataset.reading import remembered
from ekd.dataset.splits import SPLITS, asked_once, carve, check_split, check_split_percent, without
from ekd.types import Problem, Verdict

LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Files of JSON lines or a JSON list (a document each, in `column`), Parquet, or plain text (documents divided by
    `separator`); or the first `documents` of a hub dataset, read as a stream.

    Documents are whole here; the collector cuts what is longer than `data.collector.text_tokens`. Text has no answer to
    grade, so this needs a teacher that scores, and no benchmark.
    """

    train: str | list[str] | None
    val: str | list[str] | None
    test: str | list[str] | None
    hub: str | None
    hub_config: str | None
    hub_split: str
    documents: int
    val_percent: float
    column: str
    separator: str | None

    def __post_init__(self) -> None:
        check_split_percent("val_percent", self.val_percent)
        if self.documents < 1:
            raise ValueError(f"dataset.documents (of the hub's stream) is 1 or more, not {self.documents}")
        if self.hub and self.train:
            raise ValueError(f"dataset.hub={self.hub} and dataset.train are two training texts: give one of them")
        if not self._has():
            raise ValueError(
                "dataset corpus was given no text: set dataset.train, dataset.val or dataset.test to files, or "
                "dataset.hub to the name of a hub dataset"
            )

    @remembered
    def problems(self, split: str) -> list[Problem]:
        check_split("corpus", split, self._has())
        problems = self._read("train" if self._carves() and split == "val" else split)
        if self._carves() and split != "test":
            problems = carve(problems, split, self.val_percent)
        for held_out in SPLITS[SPLITS.index(split) + 1 :]:
            problems = without(problems, self._read(held_out), f"corpus {split}")
        return problems

    def files(self) -> list[Path]:
        return [path for split in SPLITS for path in self._paths(split)]

    def grade(self, problem: Problem, response: str) -> Verdict:
        return Verdict("unparseable", "")

    def _carves(self) -> bool:
        return bool(self.train or self.hub) and not self.val and self.val_percent > 0

    def _has(self) -> list[str]:
        more = {"train": bool(self.hub), "val": self._carves(), "test": False}
        return [split for split in SPLITS if self._paths(split) or more[split]]

    def _paths(self, split: str) -> list[Path]:
        paths = {"train": self.train, "val": self.val, "test": self.test}[split] or []
        return [Path(path).expanduser() for path in ([paths] if isinstance(paths, str) else paths)]

    @remembered
    def _read(self, split: str) -> list[Problem]:
        if split == "train" and self.hub:
            return asked_once(self._streamed(self.hub), f"corpus {self.hub}")
        names = distinct_names([path for name in SPLITS for path in self._paths(name)])
        read = [problem for path in self._paths(split) for problem in self._file(path, names[path])]
        return asked_once(read, f"corpus {split}")

    def _file(self, path: Path, called: str) -> list[Problem]:
        kind = path.suffix.lower()
        if kind in LINES:
            return read_problems(path, lambda record, line: self._document(f"{called}:{line}", record))
        if kind == ".json":
            return self._documents(path, called, _json_list(path))
        if kind == ".parquet":
            return self._documents(path, called, _parquet_rows(path))
        whole = _plain_text(path)
        parts = whole.split(self.separator) if self.separator else [whole]
        kept = [(number, part.strip()) for number, part in enumerate(parts, start=1) if part.strip()]
        return [Problem(f"{called}:{n}", "", "", checked_unicode(part, f"{path}, document {n},")) for n, part in kept]

    def _documents(self, path: Path, called: str, records: Iterable[Record]) -> list[Problem]:
        found = []
        for number, record in enumerate(records, start=1):
            try:
                found.append(self._document(f"{called}:{number}", record))
            except ValueError as error:
                raise ValueError(f"{path}, document {number}: {error}") from error
        return found

    def _document(self, name: str, record: Record) -> Problem:
        return Problem(name, "", "", text(record, self.column, setting="dataset.column"))

    def _streamed(self, name: str) -> list[Problem]:
        import datasets

        place = str(Path(name).expanduser()) if name.startswith("~") else name
        try:
            stream = datasets.load_dataset(place, self.hub_config, split=self.hub_split, streaming=True)
            rows = list(islice(iter(stream), self.documents))
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise ValueError(
                f"split {self.hub_split!r} of {name} could not be streamed ({reason}); check dataset.hub, "
                "dataset.hub_config and the connection, or give local files as dataset.train"
            ) from error
        return self._documents(Path(name), Path(name).name, rows)


def _plain_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # a BOM is no part of the text
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as UTF-8 text ({error}); check the path and the encoding") from error


def _json_list(path: Path) -> Iterator[Record]:
    text = _plain_text(path)
    try:
        whole: Any = json.loads(text)
    except json.JSONDecodeError as error:
        try:  # JSON lines under another name
            whole = [json.loads(line) for line in text.splitlines() if line.strip()]
        except json.JSONDecodeError:
            raise ValueError(f"{path} is not JSON ({error}), neither as a whole nor line by line") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deep for documents of text") from error
    for one in whole if isinstance(whole, list) else [whole]:
        yield one if isinstance(one, dict) else {}


def _parquet_rows(path: Path) -> Iterator[Record]:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        for batch in pq.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except (OSError, ArrowException) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({error}); check the file") from error
