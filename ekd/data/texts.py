"""Texts that a policy wrote and no teacher has read yet: on disk at once, so that none is written twice."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from ekd.outside import check_plain
from ekd.types import Request, Text

FOLDER = "texts"  # within the store


class KeptTexts:
    """A file of lines for each process, in the store's folder. What a kill left half written is not read."""

    def __init__(self, store: Path) -> None:
        self.folder = store / FOLDER

    def read(self) -> dict[str, Text]:
        """Key -> text, of every process that wrote here."""
        known: dict[str, Text] = {}
        for file in sorted(self.folder.glob("*.jsonl")):
            check_plain(file)
            content = file.read_bytes()
            for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
                try:
                    key, ids, finish, *more = json.loads(line)
                except (ValueError, TypeError) as error:
                    raise ValueError(
                        f"{file}, line {number} is no text that was written here; remove the line (its text is then "
                        "written again), or the file"
                    ) from error
                known.setdefault(key, Text(ids, finish, *more))
        return known

    def keep(self, requests: Sequence[Request], texts: Sequence[Text]) -> dict[str, Text]:
        """Passes a batch of texts on, by key; on disk before."""
        written = {request.key: text for request, text in zip(requests, texts, strict=True)}
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"{os.getpid()}.jsonl"
        known = path.read_bytes() if path.exists() else b""
        if not known.endswith(b"\n") and known:  # of a killed process that had our number
            os.truncate(path, known.rfind(b"\n") + 1)
        with path.open("a") as file:
            file.writelines(json.dumps([key, *text[:3]]) + "\n" for key, text in written.items())
            file.flush()
            os.fsync(file.fileno())
        return written

    def forget(self) -> None:
        """What this process kept, once its traces are stored."""
        (self.folder / f"{os.getpid()}.jsonl").unlink(missing_ok=True)
