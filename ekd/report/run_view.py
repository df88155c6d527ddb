"""What the page of one run shows. It needs no statistics: one run is one seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ekd.distill.provenance import command, start_of
from ekd.eval.metrics import accuracy
from ekd.report import figures as draw
from ekd.report.answers_view import answers_view
from ekd.report.cell import Cell
from ekd.report.page import Drawing, Folder, settings, versions
from ekd.report.plain import Table, Value
from ekd.report.rounds_view import rounds_view
from ekd.report.sweep import curve, read_cell

DECILES = [f"choice/kl/decile{d}" for d in range(10)]
CHOICE = (
    ("held-out rows, %", "share", 100.0),
    ("teacher entropy, nats", "teacher_entropy", 1.0),
    ("student entropy, nats", "student_entropy", 1.0),
    ("digits, %", "kind/digits", 100.0),
    ("operators, %", "kind/operators", 100.0),
    ("words, %", "kind/words", 100.0),
    ("punctuation, %", "kind/punctuation", 100.0),
    ("other, %", "kind/other", 100.0),
    ("starts a sentence, %", "kind/sentence_start", 100.0),
)


def finished_cell(run: Path) -> Cell:
    """Raises ValueError, in a sentence, for a run that did not finish."""
    if not (run / "run.json").exists() and not (run / "metrics.json").exists():
        raise ValueError(f"run={run} holds no training run; give the folder that python -m ekd.train printed")
    cell = read_cell(run, run)
    if not isinstance(cell, Cell):
        raise ValueError(f"run={run} has no figures: {cell.why}")
    return cell


def run_view(cell: Cell, folder: Folder) -> dict[str, Any]:
    run = cell.folder
    return {
        "title": f"{cell.method}, seed {cell.seed}",
        "kicker": f"A run of ekd: {run}",
        "tally": run_tally(cell),
        "headline": run_headline(cell),
        "viewer": "traces.html" if (folder.path / "traces.html").is_file() else "",
        "outcome": run_outcome(cell),
        "cautions": run_cautions(cell),
        "learning": run_learning(cell, folder),
        "deciles": run_deciles(cell, folder),
        "choice": choice(cell),
        "rounds": rounds_view(cell, folder),
        "traces": run_traces(cell, folder),
        "teachers": run_teachers(cell),
        "answers": answers_view(run),
        "command": command(cell.made),
        "versions": versions(cell.made),
        "settings": settings(cell.made["config"]),
        "made_by": f"python -m ekd.report run={run}",
    }


def run_headline(cell: Cell) -> str:
    """What came out, in a sentence: answers if there was a benchmark, else the divergence that was trained on."""
    found = benchmarks(cell)
    if after := found.get("student after"):
        share, low, high = (100 * after[f"accuracy{end}"] for end in ("", "_low", "_high"))
        others = [
            f"{words} {100 * found[who]['accuracy']:.1f}%"
            for who, words in (("student before", "before training it solved"), ("teacher", "its teacher solves"))
            if who in found
        ]
        said = f"The student solves {share:.1f}% [{low:.1f}, {high:.1f}] of {int(after['problems'])} problems"
        return f"{'; '.join([said, *others])}."
    before, now = cell.figures.get("before", {}), cell.figures["after"]["val/kl"]
    if "val/kl" not in before:
        return f"The student ends {now:.3f} nats a token from its teacher (held-out KL)."
    return f"Held-out KL to the teacher went from {before['val/kl']:.3f} to {now:.3f} nats a token."


def run_tally(cell: Cell) -> list[tuple[str, str, str]]:
    train, before, after = cell.figures["train"], cell.figures.get("before", {}), cell.figures["after"]
    began = f"{before['val/kl']:.3f} → " if "val/kl" in before else ""
    solved = [f"{100 * found['accuracy']:.1f}%" for who, found in benchmarks(cell).items() if who != "teacher"]
    return [
        *([("accuracy", " → ".join(solved), "")] if solved else []),
        ("held-out KL", f"{began}{after['val/kl']:.3f}", "nats"),
        ("tokens selected", f"{100 * train['selected']:.1f}%", ""),
        ("learned from", f"{train['supervised_tokens']:,}", "tokens"),
        ("minutes", f"{cell.figures['minutes']:.1f}", ""),
    ]


def run_outcome(cell: Cell) -> Table:
    before, after, train = cell.figures.get("before", {}), cell.figures["after"], cell.figures["train"]
    rows = []
    for name, label, factor, unit in (
        ("kl", "held-out KL to the teacher", 1, " nats"),
        ("agreement", "top-1 agreement with the teacher", 100, "%"),
        ("ce", "held-out cross entropy", 1, " nats"),
        ("entropy", "entropy of the student", 1, " nats"),
    ):
        key = f"val/{name}"
        shown = [
            f"{factor * part[key]:.{1 if factor > 1 else 3}f}{unit}" if key in part else "–" for part in (before, after)
        ]
        rows.append([Value(label), *map(Value, shown)])
    rows += [
        [Value(f"accuracy, {who}"), Value(""), Value(accuracy(metrics))] for who, metrics in benchmarks(cell).items()
    ]
    rows.append([Value("training speed"), Value(""), Value(f"{train['tokens_per_second']:,.0f} response tokens/s")])
    rows.append([Value("peak memory"), Value(""), Value(f"{cell.figures['peak_memory_gb']:.2f} GB")])
    return Table("outcome", "What came out", ["", "before training", "after training"], rows, [])


def benchmarks(cell: Cell) -> Mapping[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = cell.figures.get("benchmark") or {}
    return found


def run_cautions(cell: Cell) -> list[str]:
    said = [
        "One run is one seed: beside another run, any difference may be chance. A sweep with seeds and controls says "
        "more: python -m ekd.train -m experiment=bucket_sweep, then python -m ekd.report sweep=PATH."
    ]
    if start := start_of(cell.made):
        said.append(f"Training did not begin with the model's own weights but with the {start}.")
    if cell.made.get("changed"):
        said.append("ekd or conf had uncommitted changes: the commit does not say what ran.")
    problems = [int(metrics["problems"]) for metrics in benchmarks(cell).values()]
    if problems:
        said.append(f"The benchmark has {min(problems)} problems; the brackets are 95% intervals over problems.")
    return said


def run_learning(cell: Cell, folder: Folder) -> Drawing | None:
    line = curve(cell)
    if len(line.steps) < 2:
        return None
    panels = [
        ("step", {cell.method: (line.steps, line.kl)}, False),
        ("supervised tokens", {cell.method: (line.tokens, line.kl)}, False),
    ]
    caption = "Held-out KL while training, against optimizer steps and against the tokens that were learned from."
    label = f"Learning curve: held-out KL from {line.kl[0]:.3g} to {line.kl[-1]:.3g} nats"
    drawn = draw.curves(panels, "held-out KL to the teacher, nats", {cell.method: cell.method.name})
    return folder.draw(drawn, "learning_curve", label, caption)


def run_deciles(cell: Cell, folder: Folder) -> Drawing | None:
    before, after = cell.figures.get("before", {}), cell.figures["after"]
    if not set(DECILES) <= set(after):
        return None
    start = [before[key] for key in DECILES] if set(DECILES) <= set(before) else None
    caption = "KL to the teacher of held-out tokens in each tenth of their sequence by teacher entropy."
    figure = draw.deciles(start, {cell.method: [after[key] for key in DECILES]}, {cell.method: cell.method.name})
    return folder.draw(figure, "deciles", "KL by tenth of teacher entropy, before and after", caption)


def choice(cell: Cell) -> Table | None:
    """The rows that the selector takes beside those it leaves, on held-out rows; None where none are left."""
    after = cell.figures["after"]
    if "choice/share" not in after or after["choice/share"] >= 1:
        return None
    rows = []
    for label, name, factor in CHOICE:
        if name == "share":
            pair = [after["choice/share"], 1 - after["choice/share"]]
        else:
            kind, _, rest = name.partition("/")
            keys = [f"choice/{kind}/{side}" + (f"/{rest}" if rest else "") for side in ("chosen", "left")]
            pair = [after.get(key) for key in keys]
        shown = ["–" if v is None else f"{factor * v:.{1 if factor > 1 else 2}f}" for v in pair]
        rows.append([Value(label), *map(Value, shown)])
    notes = [
        f"Of the chosen rows, {100 * after[f'choice/overlap/{who}_top20']:.0f}% are among their sequence's 20% of "
        f"highest {who} entropy (by chance: 20%)."
        for who in ("teacher", "student")
        if f"choice/overlap/{who}_top20" in after
    ]
    return Table("choice", "Held-out rows that the selector takes and leaves", ["", "chosen", "left"], rows, notes)


def run_teachers(cell: Cell) -> Table | None:
    """Whose rows were trained on; None for a run of a version that did not keep it."""
    rows = [
        [
            Value(one["teacher"] or "–"),
            Value(Path(one["store"]).name),
            Value(f"{one['texts']:,}"),
            Value(f"{100 * one['right'] / one['graded']:.1f}" if one["graded"] else "–"),
            Value(f"{one['tokens']:,}"),
            Value(f"{one['entropy']:.3f}" if one["rows"] else "–"),
        ]
        for one in cell.figures.get("teachers", [])
    ]
    notes = [
        "Right: of the texts that were graded, whoever wrote them. Entropy: the mean over the first 1,000 texts of a "
        "store, of the tokens that its teacher knows."
    ]
    head = ["teacher", "store", "texts", "right, %", "tokens", "entropy, nats"]
    return Table("teachers", "Whose rows were trained on", head, rows, notes) if rows else None


def run_traces(cell: Cell, folder: Folder) -> Drawing | None:
    shown = cell.figures.get("trace_entropy")
    if not shown:
        return None
    caption = (
        f"The teacher's entropy over {sum(shown['counts']):,} training tokens of {cell.made.get('traces')}, log scale."
    )
    figure = draw.histogram(shown["edges"], shown["counts"])
    return folder.draw(figure, "traces", "Histogram of the teacher's entropy", caption)
