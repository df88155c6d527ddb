"""A file or folder at an fsspec address (s3://, gs://, memory://), in those words of pathlib that a store uses.

An object is written whole or not at all. There are no folders: one is there as long as something lies in it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import total_ordering
from typing import Any, NamedTuple

import fsspec

EXTRA = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}  # protocol -> which extra of ekd brings what it needs


class Found(NamedTuple):
    """What a listing or a look says of an object."""

    name: str
    st_size: int  # bytes
    st_mtime: float  # seconds, by the clock of the store
    folder: bool
    tag: str  # another whenever the content is, where the store says so


@total_ordering
class Address:
    """Raises ValueError, one sentence, for an address that cannot be used; OSError where nothing answers there."""

    def __init__(self, text: str) -> None:
        self.protocol, _, path = text.partition("://")
        self.key = path.strip("/")
        if "@" in path.partition("/")[0] or "?" in path:
            raise ValueError(
                f"{self.protocol}://...: an address carries no key, password or query, as it is written into logs: "
                "leave them out; they are taken from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...)"
            )
        if not self.key or self.protocol not in (*fsspec.available_protocols(), *fsspec.registry):
            raise ValueError(f"{text} is no address of a folder: write e.g. s3://bucket/traces")

    @property
    def fs(self) -> Any:
        """Kept by fsspec, anew in a forked process. Listings are not remembered: others write, too."""
        try:
            return fsspec.filesystem(self.protocol, use_listings_cache=False)
        except ImportError as error:
            extra = EXTRA.get(self.protocol)
            way = f"pip install 'ekd[{extra}]'" if extra else "install it"
            raise ValueError(f"{self.protocol}:// needs a package that is not there ({error}): {way}") from error

    def __str__(self) -> str:
        return f"{self.protocol}://{self.key}"

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __truediv__(self, name: str) -> Address:
        return Address(f"{self}/{name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and str(self) == str(other)

    def __lt__(self, other: Address) -> bool:
        return str(self) < str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return self.name.rpartition(".")[0] or self.name

    @property
    def parent(self) -> Address:
        return Address(f"{self.protocol}://{self.key.rpartition('/')[0]}")

    def with_name(self, name: str) -> Address:
        return self.parent / name

    def listing(self) -> list[Found]:
        """What lies in this folder, sorted by name; nothing where there is none."""
        with self._told():
            try:
                entries = self.fs.ls(self.key, detail=True)
            except FileNotFoundError:
                return []
        found = [_found(entry) for entry in entries]
        return sorted(one for one in found if one.name and one.name != self.name)

    def glob(self, pattern: str) -> Iterator[Address]:
        """Of this folder alone."""
        yield from (self / one.name for one in self.listing() if fnmatchcase(one.name, pattern))

    def iterdir(self) -> Iterator[Address]:
        return self.glob("*")

    def exists(self) -> bool:
        with self._told():
            return bool(self.fs.exists(self.key))

    def is_file(self) -> bool:
        with self._told():
            return bool(self.fs.isfile(self.key))

    def is_dir(self) -> bool:
        return bool(self.listing())

    def stat(self) -> Found:
        with self._told():
            return _found({**self.fs.info(self.key), "LastModified": self.fs.modified(self.key)})

    def read_bytes(self, start: int = 0) -> bytes:
        with self._told():
            if start and self.stat().st_size <= start:  # a range beyond the end is an error to some
                return b""
            content: bytes = self.fs.cat_file(self.key, start=start or None)
            return content

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes) -> None:
        with self._told():
            self.fs.pipe_file(self.key, data)

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        self.write_bytes(text.encode(encoding))

    def create(self, data: bytes) -> None:
        """Raises FileExistsError where it is there already: of several that do this at once, one succeeds."""
        with self._told():
            self.fs.pipe_file(self.key, data, mode="create")

    def unlink(self, missing_ok: bool = False) -> None:
        with self._told():
            try:
                self.fs.rm_file(self.key)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def remove(self) -> None:
        """With all that lies in it."""
        with self._told():
            for one in self.listing():
                (self / one.name).remove() if one.folder else (self / one.name).unlink(missing_ok=True)

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing to do."""

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What a client says of keys and connections in classes of its own, as the OSError that it is."""
        try:
            yield
        except _foreign() as error:
            raise OSError(f"{self} does not answer: {str(error).splitlines()[0]}") from error


def _foreign() -> tuple[type[Exception], ...]:
    boto = sys.modules.get("botocore.exceptions")
    return () if boto is None else (boto.BotoCoreError, boto.ClientError)


def _found(entry: dict[str, Any]) -> Found:
    when = entry.get("LastModified") or entry.get("created") or 0.0
    seconds = when if isinstance(when, int | float) else when.timestamp()
    name = os.path.basename(str(entry["name"]).rstrip("/"))  # noqa: PTH119 (no path of this machine)
    tag = str(entry.get("ETag") or entry.get("etag") or seconds)
    return Found(name, int(entry.get("size") or 0), seconds, entry.get("type") == "directory", tag)
