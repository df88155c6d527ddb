"""What mkdocs asks while it builds the site (mkdocs.yml, hooks): pages that lie beside docs/, and links that fit there.

A document's links are written for GitHub, relative to where it lies in the repository. On the site README.md is the
first page, and files that are no page (a script, a yaml) are named without a link.
"""

from __future__ import annotations

import re
from os.path import normpath, relpath
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
BESIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md"}


def on_files(files: Files, config: Any) -> Files:
    for source, page in BESIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    source = {page: source for source, page in BESIDE.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return re.sub(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)", lambda link: moved(link, source), markdown)


def moved(link: re.Match[str], source: str) -> str:
    """The same link, from `source` (a path in the repository) to where its target is on the site."""
    picture, text, target, anchor = (part or "" for part in link.groups())
    place = normpath(PurePosixPath(source).parent / target)
    if place not in BESIDE and not place.startswith("docs/"):
        return text
    here = BESIDE.get(source, source.removeprefix("docs/"))
    there = relpath(BESIDE.get(place, place.removeprefix("docs/")), PurePosixPath(here).parent)
    return f"{picture}[{text}]({there}{anchor})"


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    r"""GitHub shows `\|` inside code in a table as a bar, and the site's Markdown as both characters."""
    return re.sub(r"<td.*?</td>", lambda cell: cell[0].replace(r"\|", "|"), html, flags=re.DOTALL)
