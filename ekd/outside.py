"""What others made is not trusted: of it only plain files and names are taken, and its text is shown, not obeyed.

A link or a device inside such a folder may lead anywhere: read, it hangs or publishes what was not meant; written to,
it destroys what somebody else keeps. The folder itself is the user's word and may be a link.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

# What steers a terminal, turns the text around or is half a character; not a line's end, not a tab.
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """What others wrote, for a terminal: an escape is shown as \\x1b and does nothing."""
    return STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


def check_plain(path: Path) -> None:
    """Raises ValueError, one sentence, where `path` is there and neither a plain file nor a folder. Follows no link."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISLNK(mode):
        raise ValueError(
            f"{path} is a link to {str(path.readlink())!r}, and what lies inside a folder may come from a stranger, so "
            "links in it are not followed: put what it leads to in its place"
        )
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError(f"{path} is neither a file nor a folder (a device or a pipe): remove it")


def check_tree(folder: Path, names: Iterable[str]) -> None:
    """`check_plain` of these entries of a folder and of everything below them."""
    for name in names:
        top = folder / name
        check_plain(top)
        for inside, folders, files in os.walk(top):
            for child in (*folders, *files):
                check_plain(Path(inside) / child)


def plain_file(path: Path) -> bool:
    """Whether there is a plain file, not a link, device, pipe or folder."""
    return path.is_file() and not path.is_symlink()
