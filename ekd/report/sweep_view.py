"""What the page of a sweep shows, section by section."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any
from urllib.parse import quote

from ekd.distill.provenance import command
from ekd.method import Method, tiling
from ekd.report import figures
from ekd.report.cautions import cautions
from ekd.report.cell import Cell
from ekd.report.findings import findings
from ekd.report.page import Drawing, Folder, settings, versions
from ekd.report.plain import Table, Value, inert
from ekd.report.section import ACCURACY, AGREEMENT, KL, Result, Section, decile_means, results, sections, value
from ekd.report.short import left_out
from ekd.report.sweep import Curve, SweepCells, curve
from ekd.report.tables import choice_table, cost_table, decile_table, method_table, said


def sweep_view(sweep: SweepCells, folder: Folder) -> dict[str, Any]:
    parts = sections(sweep)
    write_cells(sweep.cells, folder.path / "cells.csv")
    return {
        "title": sweep.path.resolve().name,
        "kicker": "A sweep of ekd: does it matter which tokens a student learns from?",
        "tally": sweep_tally(sweep, parts),
        "sections": [section_view(part, folder, place) for place, part in enumerate(parts)],
        "traces": sweep_traces(sweep.cells, folder),
        "lost": lost_table(sweep, parts),
        "commands": Counter(command(cell.made) for cell in sweep.cells).most_common(),
        "versions": " ".join(sorted({versions(cell.made) for cell in sweep.cells})),
        "settings": settings(shared_config([cell.made["config"] for cell in sweep.cells])),
        "made_by": f"python -m ekd.report sweep={sweep.path}",
    }


def sweep_tally(sweep: SweepCells, parts: Sequence[Section]) -> list[tuple[str, str, str]]:
    missing = sum(len(part.missing) for part in parts)
    states = Counter(cell.state for cell in sweep.lost)
    whole = len(sweep.cells) + len(sweep.lost) + missing
    found = [("cells finished", str(len(sweep.cells)), f"of {whole}")]
    found += [(state, str(states[state]), "") for state in ("failed", "unreadable", "unfinished") if states[state]]
    if missing:
        found.append(("missing", str(missing), ""))
    seeds = sorted({len(part.seeds) for part in parts})
    found.append(("methods", str(len({cell.method for cell in sweep.cells})), ""))
    found.append(("seeds", " and ".join(map(str, seeds)), ""))
    found.append(("hours", f"{sum(cell.figures['minutes'] for cell in sweep.cells) / 60:.1f}", "of computing"))
    return found


def section_view(section: Section, folder: Folder, place: int) -> dict[str, Any]:
    measured = results(section)
    prefix = (section.budget or "runs") + (f"_{place + 1}" if section.setting else "")
    tables = {"methods": method_table(section, measured), "decile": decile_table(section)}
    tables |= {"choice": choice_table(section), "cost": cost_table(section)}
    files = {name: folder.write(table, f"{prefix}_{table.name}") for name, table in tables.items() if table}
    return {
        "anchor": f"budget-{prefix}",
        "title": section.title,
        "short": {method.name: label for method, label in section.short.items()},
        "bands": bool(tiling(section.methods)),
        "findings": findings(section, measured),
        "cautions": cautions(section, measured[0]),
        "curves": [sweep_bucket_curve(one, section, prefix, folder) for one in measured],
        "differences": paired(measured[0], section, prefix, folder),
        "learning": sweep_learning(section, prefix, folder),
        "deciles": sweep_deciles(section, prefix, folder),
        "methods_table": tables["methods"],
        "runs": run_links(section, folder),
        "decile_table": tables["decile"],
        "choice": tables["choice"],
        "cost": tables["cost"],
        **{f"{name}_files": files.get(name, []) for name in tables},
    }


def sweep_bucket_curve(result: Result, section: Section, prefix: str, folder: Folder) -> Drawing:
    tiles = tiling(result.table) or list(result.table)
    order = result.ranked(tiles)
    best, worst = order[0], order[-1]
    label = (
        f"{result.metric.label} by percentile band: best {best} with {result.show(result.means[best].mean)}, "
        f"worst {worst} with {result.show(result.means[worst].mean)} {result.metric.unit}"
    )
    word = "lower" if result.metric.falls else "higher"
    caption = (
        f"{result.metric.label[0].upper()}{result.metric.label[1:]}, {word} is better. Bars are means over seeds and "
        "span the percentiles that the band takes, boxes are 95% intervals of the mean (cut at the frame), dots are "
        "seeds; dashed bars are bands of another width. Seeds share noise, so boxes may overlap while their paired "
        f"difference is clear.{left_out(section.methods)}"
    )
    name = f"{prefix}_bucket_curve_{result.metric.name}"
    return folder.draw(figures.bucket_curve(result, section.short), name, label, caption, values=pointed(result))


def pointed(result: Result) -> dict[str, str]:
    """bucket_70_80: 1.42 nats [1.30, 1.54], 3 seeds."""
    said = {}
    for name, found in result.means.items():
        spans = "" if found.low is None else f" {result.span(found.low, found.high)}"
        seeds = "1 seed" if found.n == 1 else f"{found.n} seeds"
        said[str(name)] = f"{name}: {result.show(found.mean)} {result.metric.unit}{spans}, {seeds}"
    return said


def run_links(section: Section, folder: Folder) -> dict[str, list[tuple[str, str]]]:
    """By method its seeds, and where their own pages are: figures, and every answer. Only pages that are there."""
    links: dict[str, list[tuple[str, str]]] = {}
    for cell in sorted(section.cells, key=lambda one: one.seed):
        page = cell.folder / "report" / "index.html"
        if page.is_file():
            way = quote(os.path.relpath(page.resolve(), folder.path.resolve()))
            links.setdefault(str(cell.method), []).append((str(cell.seed), way))
    return links


def paired(result: Result, section: Section, prefix: str, folder: Folder) -> Drawing | None:
    if not result.comparisons:
        return None
    found = sum(c.found for c in result.tested)
    count = sum(c.control.is_random for c in result.comparisons)
    label = f"Paired differences: {found} of {len(result.tested)} are shown after correction"
    caption = (
        f"Difference of {result.metric.label}, paired by seed, with its own 95% interval; {count} to a random control. "
        f"Filled and thick: shown after Holm's correction; hollow: not shown.{left_out(section.methods)}"
    )
    return folder.draw(figures.differences(result, section.short), f"{prefix}_differences", label, caption)


def sweep_learning(section: Section, prefix: str, folder: Folder) -> Drawing | None:
    """Means over seeds, against steps and against the tokens learned from."""
    by_step: dict[Method, Any] = {}
    by_token: dict[Method, Any] = {}
    for name in section.methods:
        steps, tokens, kl = averaged([curve(cell) for cell in section.of(name)])
        if len(steps) > 1:
            by_step[name], by_token[name] = (steps, kl), (tokens[1:], kl[1:])
    if not by_step:
        return None
    panels = [("step", by_step, False), ("supervised tokens", by_token, True)]
    caption = (
        "Held-out KL while training, mean over seeds, against optimizer steps and against the tokens that were learned "
        "from (between logged steps read off linearly). The darker a band's line, the lower its percentiles."
        f"{left_out(section.methods)}"
    )
    drawn = figures.curves(panels, "held-out KL to the teacher, nats", section.short)
    return folder.draw(drawn, f"{prefix}_learning_curves", "Learning curves of every method", caption, lines=True)


def averaged(curves: Sequence[Curve]) -> tuple[list[float], list[float], list[float]]:
    """Over the validations that every seed has and the last, which at equal tokens comes at different steps."""
    points = [list(zip(one.steps, one.tokens, one.kl, strict=True)) for one in curves if one.steps]
    if not points:
        return [], [], []
    shared = set.intersection(*({point[0] for point in one[:-1]} for one in points))
    rows = list(zip(*([p for p in one[:-1] if p[0] in shared] + one[-1:] for one in points), strict=True))
    steps, tokens, kl = ([mean(point[axis] for point in row) for row in rows] for axis in range(3))
    return steps, tokens, kl


def sweep_deciles(section: Section, prefix: str, folder: Folder) -> Drawing | None:
    after = decile_means(section)
    if not after:
        return None
    starts = list(decile_means(section, "before").values())
    before = [mean(column) for column in zip(*starts, strict=True)] if starts else None
    caption = (
        "KL to the teacher of held-out tokens in each tenth of their sequence by teacher entropy, before training "
        "(dotted) and after, mean over seeds; on the right after training alone, on a scale of its own."
        f"{left_out(section.methods)}"
    )
    drawn = figures.deciles(before, after, section.short)
    return folder.draw(
        drawn, f"{prefix}_deciles", "KL by tenth of teacher entropy, before and after", caption, lines=True
    )


def sweep_traces(cells: Sequence[Cell], folder: Folder) -> list[Drawing]:
    """One histogram for each store that was trained on."""
    stores: dict[str, dict[str, Any]] = {}
    for cell in cells:
        if cell.figures.get("trace_entropy"):
            stores.setdefault(str(cell.made.get("traces")), cell.figures["trace_entropy"])
    found = []
    for place, (store, shown) in enumerate(stores.items()):
        caption = (
            f"The teacher's entropy over {sum(shown['counts']):,} training tokens of {store}, on a log scale; dotted: "
            "percentiles over all tokens (a selector counts within each sequence)."
        )
        drawn = figures.histogram(shown["edges"], shown["counts"])
        found.append(folder.draw(drawn, f"traces_{place}", "Histogram of the teacher's entropy", caption))
    return found


def lost_table(sweep: SweepCells, parts: Sequence[Section]) -> Table:
    """Also of a budget that has no finished cell."""
    rows = [
        [cell.method, "–" if cell.seed is None else str(cell.seed), cell.budget, cell.state, cell.why]
        for cell in sweep.lost
    ]
    for part in parts:
        rows += [[method, str(seed), part.budget, "missing", "no such run here"] for method, seed in part.missing]
    values = [[Value(text) for text in row] for row in rows]
    return Table("lost", "Cells without a result", ["method", "seed", "budget", "state", "what it said"], values, [])


def write_cells(cells: Sequence[Cell], file: Path) -> None:
    parts, marks = Method._fields, (KL, AGREEMENT, ACCURACY)
    head = ["budget", "method", *parts, "seed", *(metric.name for metric in marks)]
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow([*head, "supervised_tokens", "minutes", "folder"])
        for cell in cells:
            row = [cell.budget, cell.method, *(said(cell.method, part) for part in parts), cell.seed]
            row += [value(cell, metric) for metric in marks]
            tokens = cell.figures["train"]["supervised_tokens"]
            writer.writerow(map(inert, [*row, tokens, cell.figures["minutes"], str(cell.folder)]))


def shared_config(nodes: Sequence[Any]) -> Any:
    """What all of these configs say alike."""
    first = nodes[0]
    if all(isinstance(node, dict) for node in nodes):
        inner = {key: shared_config([node.get(key, ...) for node in nodes]) for key in first}
        return {key: child for key, child in inner.items() if child is not ... and child != {}}
    return first if all(node == first for node in nodes) else ...
