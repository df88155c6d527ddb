"""The rows of a foreign dataset with their places, one by one: a row that cannot be read hides no other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError

Row: TypeAlias = "tuple[str, Mapping[str, Any] | str]"  # where it stands (lines from 1, rows from 0); what, or why not


def load_examples(source: str, split: str) -> Iterator[Row]:
    """Of a folder of `save_to_disk`, a .parquet, .json or .jsonl file, or a hub name.

    Raises ValueError or OSError at once for a source that cannot be read at all.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _indexed(source, _folder(path, split))
    if path.suffix == ".parquet":
        return _parquet(path, pq.ParquetFile(path))
    if path.suffix in (".json", ".jsonl", ".ndjson"):
        file = path.open("rb")
        return _elements(path) if path.suffix == ".json" and _is_list(file) else _lines(path, file)
    try:
        return _indexed(source, load_dataset(source, split=split))
    except DatasetsError as error:
        raise ValueError(f"the dataset {source!r} cannot be loaded ({str(error).splitlines()[0]})") from error


def _folder(path: Path, split: str) -> Dataset:
    whole = load_from_disk(str(path))
    if not isinstance(whole, DatasetDict):
        return whole
    if split not in whole:
        raise ValueError(f"{path} has no split {split!r}, it has {', '.join(whole) or 'none'}: give --split")
    return whole[split]


def _indexed(source: str, dataset: Dataset) -> Iterator[Row]:
    for at, example in enumerate(dataset.with_format(None)):  # plain lists, whatever the dataset was saved as
        yield f"{source}, row {at}", example


def _parquet(path: Path, file: pq.ParquetFile) -> Iterator[Row]:
    """A row group that is damaged costs its own rows."""
    end = 0
    for group in range(file.num_row_groups):
        at, end = end, end + file.metadata.row_group(group).num_rows
        try:
            for batch in file.iter_batches(256, row_groups=[group]):
                for example in batch.to_pylist():
                    yield f"{path}, row {at}", example
                    at += 1
        except (OSError, pa.ArrowException) as error:
            yield f"{path}, rows {at} to {end - 1}", f"the file is damaged ({str(error).splitlines()[0]})"


def _is_list(file: BinaryIO) -> bool:
    begin = file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    file.seek(0)
    return begin == b"["


def _lines(path: Path, file: BinaryIO) -> Iterator[Row]:
    with file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}:{number}", _object(line)


def _object(line: bytes) -> Mapping[str, Any] | str:
    try:
        found = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested without end
        return f"it is not a line of JSON ({error})"
    return found if isinstance(found, dict) else f"it is no object with columns but {line.decode()!r:.60}"


def _elements(path: Path) -> Iterator[Row]:
    try:
        elements = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); with an object a line, call it .jsonl") from None
    return (
        (f"{path}, row {at}", found if isinstance(found, dict) else f"it is no object but {found!r:.60}")
        for at, found in enumerate(elements)
    )
