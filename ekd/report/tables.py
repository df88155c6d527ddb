"""The tables of a section."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from ekd.method import NEAR, TEACHER_FREE, VANILLA, Method, Part
from ekd.report.effects import Effect
from ekd.report.findings import chance
from ekd.report.plain import Table, Value
from ekd.report.section import Result, Section, decile_means
from ekd.report.sweep import curve


def method_table(section: Section, results: Sequence[Result]) -> Table:
    """Means and intervals of every metric, and the first one's paired differences."""
    main = results[0]
    unit = "points" if main.metric.unit == "%" else main.metric.unit
    parts = varied(section.methods)
    head = ["method", *parts, "share, %", "supervised tokens", "steps"]
    head += [f"{one.metric.label}, {one.metric.unit}" for one in results]
    head += ["random control (its share, %)", f"minus random of the same share, {unit}", "p"]
    head += [f"minus every token, {unit}", "p"]
    rows = []
    for name in section.methods:
        cells = section.of(name)
        train = [cell.figures["train"] for cell in cells]
        row = [Value(name.name), *(Value(said(name, part)) for part in parts)]
        row.append(Value(f"{100 * section.shares[name]:.1f}"))
        row.append(Value(f"{mean(t['supervised_tokens'] for t in train):,.0f}"))
        row.append(Value(_whole([last for cell in cells for last in curve(cell).steps[-1:]])))
        row += [_mean(one, name) for one in results]
        control = main.controls.get(name)
        row.append(Value("–" if control is None else f"{control} ({100 * section.shares[control]:.1f})"))
        row += _difference(main, main.against(name, control))
        row += _difference(main, main.against(name, VANILLA if name == name.plain else name.plain))
        rows.append(row)
    notes = [
        f"{_seeds(section)} Mean [95% interval, Student's t]. Differences are of {main.metric.label}, paired by seed; "
        f"p is of the paired t test after Holm's correction for the {len(main.tested)} comparisons of this table. An "
        "asterisk marks p < 0.05, a question mark an interval that excludes 0 without surviving the correction. The "
        f"control is the random run whose measured share is nearest, within {100 * NEAR:.0f}% of the method's own."
    ]
    return Table("methods", f"{section.title}: methods", head, rows, notes)


PARTS = (
    "signal",
    "loss",
    "source",
    "policy",
    "samples",
    "draws",
    "temperature",
    "alpha_ce",
    "gate",
    "tail",
    "unmatched",
)


def varied(methods: Sequence[Method]) -> list[str]:
    """The parts in which the methods of a section differ, beside the selector, which every name begins with."""
    scored = [method for method in methods if method.signal is not None]
    return [part for part in PARTS if len({said(one, part) for one in (scored if part == "signal" else methods)}) > 1]


def said(method: Method, part: str) -> str:
    value = method._asdict()[part]
    return "–" if value is None else str(value.name if isinstance(value, Part) else value)


def _whole(numbers: Sequence[float]) -> str:
    return f"{mean(numbers):,.0f}" if numbers else "–"


def _seeds(section: Section) -> str:
    counts = sorted({len(section.of(name)) for name in section.methods})
    return f"{counts[0]} seed{'s' * (counts[-1] > 1)}." if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds."


def _mean(result: Result, name: Method) -> Value:
    if name not in result.means:
        return Value("–")
    found = result.means[name]
    spans = "" if found.low is None else f" {result.span(found.low, found.high)}"
    return Value(f"{result.show(found.mean)}{spans}")


def _difference(result: Result, c: Effect | None) -> list[Value]:
    if c is None:
        return [Value("–"), Value("–")]
    kind = ("better" if result.better(c) else "worse") if c.found else "hint" if c.hinted else ""
    mark = " *" if c.found else " ?" if c.hinted else ""
    spans = "" if c.low is None else f" {result.span(c.low, c.high)}"
    p = "–" if c.corrected is None else chance(c.corrected)
    return [Value(f"{result.show(c.difference, True)}{spans}{mark}", kind), Value(p)]


def cost_table(section: Section) -> Table:
    head = ["method", "minutes", "response tokens/s", "peak memory, GB"]
    rows = []
    for name in section.methods:
        figures = [cell.figures for cell in section.of(name)]
        rows.append([
            Value(name.name),
            Value(f"{mean(f['minutes'] for f in figures):.1f}"),
            Value(f"{mean(f['train']['tokens_per_second'] for f in figures):,.0f}"),
            Value(f"{max(f['peak_memory_gb'] for f in figures):.2f}"),
        ])  # fmt: skip
    total = sum(cell.figures["minutes"] for cell in section.cells)
    notes = [
        f"Minutes and speed are means over seeds, memory the largest. All cells together took {total / 60:.1f} hours. "
        "Runs that shared the machine slow each other down, so compare speeds only where they did not. The first run's "
        "minutes include the tracing. Without CUDA, memory includes what earlier runs of the same process left."
    ]
    return Table("cost", f"{section.title}: cost", head, rows, notes)


def choice_table(section: Section) -> Table | None:
    """What a selector takes, on held-out rows of the trained student; None where no run measured it."""
    columns = [
        ("held-out rows chosen, %", "choice/share", 100.0),
        ("teacher entropy chosen, nats", "choice/teacher_entropy/chosen", 1.0),
        ("teacher entropy left, nats", "choice/teacher_entropy/left", 1.0),
        ("in the teacher's top 20%, %", "choice/overlap/teacher_top20", 100.0),
        ("in the student's top 20%, %", "choice/overlap/student_top20", 100.0),
        ("digits, %", "choice/kind/chosen/digits", 100.0),
        ("operators, %", "choice/kind/chosen/operators", 100.0),
        ("words, %", "choice/kind/chosen/words", 100.0),
        ("starts a sentence, %", "choice/kind/chosen/sentence_start", 100.0),
    ]
    columns = [c for c in columns if any(c[1] in cell.figures["after"] for cell in section.cells)]
    rows = []
    for name in section.methods:
        row = [Value(name.name)]
        for _, key, factor in columns:
            found = [cell.figures["after"][key] for cell in section.of(name) if key in cell.figures["after"]]
            row.append(Value(f"{factor * mean(found):.{1 if factor > 1 else 2}f}" if found else "–"))
        rows.append(row)
    notes = [
        "Of the chosen rows: how many are among the 20% of highest entropy of their sequence (20% by chance), and what "
        "they are."
    ]
    head = ["method", *(label for label, _, _ in columns)]
    return Table("choice", f"{section.title}: what was chosen", head, rows, notes) if columns else None


def decile_table(section: Section) -> Table | None:
    """KL by tenth of teacher entropy after training, minus that of every token; shaded by size."""
    means = decile_means(section)
    plain = VANILLA if VANILLA in means else next((name for name in means if name == name.plain), None)
    if plain is None or len(means) < 2:
        return None
    base = means[plain]
    gaps = {name: [v - b for v, b in zip(values, base, strict=True)] for name, values in means.items()}
    reach = sorted(abs(gap) for name, row in gaps.items() for gap in row if name not in (plain, TEACHER_FREE))
    top = max(reach[int(0.95 * (len(reach) - 1))] if reach else 1.0, 1e-9)
    rows = [[Value(name.name), *(_shaded(gap, top) for gap in row)] for name, row in gaps.items() if name != plain]
    notes = [
        f"Nats; below 0 is better than {plain.name} in that tenth. 1: where the teacher is surest, 10: most unsure."
    ]
    head = ["method", *(str(d) for d in range(1, 11))]
    return Table("deciles", f"{section.title}: KL by tenth of teacher entropy, minus {plain.name}", head, rows, notes)


def _shaded(gap: float, top: float) -> Value:
    return Value(f"{gap:+.2f}".replace("-", "−"), shade=max(-1.0, min(1.0, gap / top)))
