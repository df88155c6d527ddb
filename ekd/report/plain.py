"""A table of a report: one shape for the page, for Markdown and for LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple


class Value(NamedTuple):
    text: str
    kind: str = ""  # better or worse: a difference that is shown; hint: one that is not after the correction
    shade: float = 0.0  # -1 to 1, of a cell whose size is seen by its colour


class Table(NamedTuple):
    name: str  # of its files
    caption: str
    head: list[str]  # the first column names the row
    rows: list[list[Value]]
    notes: list[str]


def inert(value: Any) -> Any:
    """For a CSV file: a spreadsheet computes what begins like a formula, unless a quote stands before it."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("=", "+", "-", "@"):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def markdown(table: Table) -> str:
    def line(values: Sequence[str]) -> str:  # a name that breaks the line would break the table
        return "| " + " | ".join(" ".join(value.split()).replace("|", r"\|") for value in values) + " |"

    rule = "|---|" + "---:|" * (len(table.head) - 1)
    body = [line([value.text for value in row]) for row in table.rows]
    return "\n".join([line(table.head), rule, *body, "", *table.notes]) + "\n"


def latex(table: Table) -> str:
    """For booktabs; the caption is the writer's."""
    body = [" & ".join(_tex(value.text) for value in row) + r" \\" for row in table.rows]
    head = " & ".join(_tex(label) for label in table.head) + r" \\"
    lines = [
        "% \\usepackage{booktabs}",
        f"% {' '.join(table.notes)}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.head) - 1)}}}",
    ]
    return "\n".join([*lines, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _tex(text: str) -> str:
    text = " ".join(text.split()).replace("\\", "\0")
    text = re.sub(r"([_%&#${}])", r"\\\1", text).replace("^", r"\^{}").replace("~", r"\~{}")
    text = text.replace("\0", r"\textbackslash{}")
    text = re.sub(r"−(?=\d)", "$-$", text).replace("<", "$<$").replace("–", "--")
    return re.sub(r" \*$", "$^{*}$", text)
