"""A matplotlib figure as SVG: whole, for a file, and as a part of a page that follows the page's colours and font."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import unescape
from io import StringIO
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from ekd.report.palette import DARK, variable

POINT = "point:"  # what belongs to one method, and tells its values to a reader who points at it

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def drawn_svg(figure: Figure) -> str:
    """A complete SVG file."""
    import matplotlib as mpl

    out = StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ekd"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def inline(svg: str, name: str, label: str, values: Mapping[str, str]) -> Markup:
    """For a page: colours are variables, ids are unique to `name`, lines carry their method, `label` is read aloud.

    values: by method, what its part of the figure says in words.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="series:([^"]+)">', r'<g class="series" data-series="\1"><title>\1</title>', body)
    body = re.sub(
        rf'<g id="{POINT}([^"]+)">',
        lambda found: f'<g class="point" data-value="{escape(values.get(unescape(found[1]), unescape(found[1])))}">',
        body,
    )
    body = _unique_ids(body, name)
    for light in DARK:
        body = body.replace(light, f"var({variable(light)})")
    body = re.sub(r"font: ([^;\"]*?)(\d+(?:\.\d+)?)px [^;\"]*", r"font-size: \2px", body)
    head = f'<svg role="img" aria-label="{escape(label)}" class="figure" '
    body = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1), count=1
    )
    return Markup(head + body[len("<svg ") :])


def _unique_ids(body: str, name: str) -> str:
    """Two figures of one page must not share an id; an id that nothing refers to is dropped."""
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', body))
    wanted = {one or other for one, other in used}
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in wanted else "", body)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", body)
