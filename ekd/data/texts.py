"""Texts that a policy wrote and no teacher has read yet: on disk at once, so that none is written twice."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from ekd.files import cut_torn, is_gone, process_name, whole_lines
from ekd.types import Request, Text

FOLDER = "texts"  # within the store


class KeptTexts:
    """A file of lines for each process, in the store's folder. What a kill left half written is not read."""

    def __init__(self, store: Path) -> None:
        self.folder = store / FOLDER
        self.own = self.folder / f"{process_name()}.jsonl"

    def read(self) -> dict[str, Text]:
        """Key -> text, of every process that wrote here."""
        known: dict[str, Text] = {}
        for file in sorted(self.folder.glob("*.jsonl")):
            known = texts_of(file) | known
        return known

    def keep(self, requests: Sequence[Request], texts: Sequence[Text]) -> dict[str, Text]:
        """Passes a batch of texts on, by key; on disk before."""
        written = {request.key: text for request, text in zip(requests, texts, strict=True)}
        self.folder.mkdir(exist_ok=True)
        cut_torn(self.own)  # of a killed process that had our number
        with self.own.open("a") as file:
            file.writelines(json.dumps([key, *text[:3], text.log_q]) + "\n" for key, text in written.items())
            file.flush()
            os.fsync(file.fileno())
        return written

    def forget(self, stored: Collection[str]) -> None:
        """Files all of whose texts are stored as traces: this process's, and those that dead ones left on this host.

        One that lives might be adding to its own.
        """
        left = [file for file in self.folder.glob("*.jsonl") if file == self.own or is_gone(file.stem)]
        for file in left:
            if all(key in stored for key in texts_of(file)):
                file.unlink(missing_ok=True)


def texts_of(file: Path) -> dict[str, Text]:
    """Raises ValueError for a whole line that nobody wrote here. A file that is gone by now holds none."""
    known: dict[str, Text] = {}
    for number, line in whole_lines(file):
        try:
            key, ids, finish, seconds, *more = json.loads(line)
            known.setdefault(key, Text(ids, finish, seconds, log_q=more[0] if more else None))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{file}, line {number} is no text that was written here; remove the line (its text is then written "
                "again), or the file"
            ) from error
    return known
