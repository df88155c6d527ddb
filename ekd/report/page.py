"""Pages for a browser: of a sweep and of one run. One file each, no network; figures and tables lie beside it, too.

Light to import: matplotlib, scipy and Jinja are loaded by the call.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ekd.report.plain import Table

DPI = 200  # of the PNG files


class Drawing(NamedTuple):
    """A figure in the page, and the names of its files."""

    svg: str
    label: str  # read aloud
    caption: str
    files: list[str]
    lines: bool  # many lines, of which a reader may bring one forward


class Folder(NamedTuple):
    """Where a page and what belongs to it are written."""

    path: Path
    png: bool  # also a PNG of every figure

    def draw(
        self,
        figure: Figure,
        name: str,
        label: str,
        caption: str,
        *,
        lines: bool = False,
        values: Mapping[str, str] | None = None,
    ) -> Drawing:
        """values: by method, what is said to a reader who points at it."""
        from ekd.report.svg import drawn_svg, inline

        whole = drawn_svg(figure)
        files = [f"{name}.svg"]
        (self.path / files[0]).write_text(whole)
        if self.png:
            files.append(f"{name}.png")
            figure.savefig(self.path / files[1], dpi=DPI)
        return Drawing(inline(whole, name, label, values or {}), label, caption, files, lines)

    def write(self, table: Table, name: str) -> list[str]:
        from ekd.report.plain import latex, markdown

        (self.path / f"{name}.md").write_text(markdown(table))
        (self.path / f"{name}.tex").write_text(latex(table))
        return [f"{name}.md", f"{name}.tex"]

    def render(self, template: str, *, again: int = 0, **values: Any) -> Path:
        page = self.path / "index.html"
        page.write_text(rendered(template, again=again, **values))
        return page


def folder(path: Path, png: bool) -> Folder:
    path.mkdir(parents=True, exist_ok=True)
    return Folder(path, png)


def rendered(template: str, **values: Any) -> str:
    import jinja2
    from markupsafe import Markup, escape

    from ekd.report.palette import variables

    def names(text: str, short: Mapping[str, str], shown: str = "<code>{}</code>") -> Markup:
        """Method names as short as the figures have them, in code's letters, so that they stand out of a sentence."""
        known = {str(escape(name)): shown.format(escape(label)) for name, label in short.items()}
        pattern = "|".join(sorted(map(re.escape, known), key=len, reverse=True)) or r"(?!)"  # matches nothing
        return Markup(re.sub(rf"(?<![\w/-])({pattern})(?![\w/-])", lambda found: known[found[0]], str(escape(text))))

    loader = jinja2.FileSystemLoader(Path(__file__).parent / "template")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["names"] = names
    light, dark = Markup(variables(False)), Markup(variables(True))
    parts = ("page.js", "answers.js")
    script = "".join(environment.get_template(part).render() for part in parts)  # the only one that the policy lets run
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own = {"light": light, "dark": dark, "script": Markup(script), "digest": Markup(digest)}
    return environment.get_template(template).render(**own, **values)


def open_line(page: Path) -> str:
    """What a person gives to a shell, or to a browser, to see it."""
    return f"open {page.resolve().as_uri()}"


def versions(made: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in made.get("versions", {}).items())
    commit = made.get("commit") or "unknown"
    changed = " with uncommitted changes" if made.get("changed") else ""
    return f"ekd {made.get('ekd')}, commit {commit}{changed}; {packages}."


def settings(config: Any) -> str:
    return json.dumps(config, indent=1)
