"""The marks of an exam as a table for a person."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table


def table(title: str, rows: Sequence[tuple[str, str]]) -> Table:
    view = Table(title=title, show_header=False, title_justify="left")
    for row in rows:
        view.add_row(*row)
    return view
