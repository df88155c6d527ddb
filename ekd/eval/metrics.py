"""What a sheaf of answers is worth, in numbers and as a table for a person."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from rich.table import Table
from rich.text import Text

from ekd.eval.answers import Answer
from ekd.eval.statistics import Interval, mean_interval, pass_at, wilson
from ekd.outside import visible

Same = Callable[[Answer, Answer], bool]
Row = tuple[str, str]


def summary(answers: Sequence[Answer], *, asked: int, same: Same) -> dict[str, float]:
    """accuracy is avg@n: over problems, the mean share of their answers that is correct. Intervals are 95%.

    One answer a problem: Wilson's interval; n: see `ekd.eval.statistics.mean_interval`. pass@k, majority: for n > 1.
    unparseable, truncated, endless: shares of the answers. asked: answers there would be without failures.
    """
    sheets = by_problem(answers)
    single = all(len(sheet) == 1 for sheet in sheets)
    result: dict[str, float] = {"problems": len(sheets), "answers": len(answers), "failed": asked - len(answers)}
    result |= _with_interval("accuracy", [share_of_status(sheet, "correct") for sheet in sheets], single)
    for k in [] if single else rungs(min(map(len, sheets))):
        solved = [pass_at(k, len(sheet), sum(a.status == "correct" for a in sheet)) for sheet in sheets]
        result |= _with_interval(f"pass@{k}", solved, False)
    if not single:
        result |= _with_interval("majority", [majority(sheet, same) for sheet in sheets], True)
    result["unparseable"] = share_of_status(answers, "unparseable")
    result["truncated"] = _mean([a.finish == "length" for a in answers])
    result["endless"] = _mean([a.endless for a in answers])
    result["tokens"] = _mean([a.tokens for a in answers])
    seconds = sum(a.seconds for a in answers)
    result["tokens_per_second"] = sum(a.tokens for a in answers) / seconds if seconds else 0.0
    result["seconds"] = seconds
    return result


def by_problem(answers: Sequence[Answer]) -> list[list[Answer]]:
    sheets: dict[str, list[Answer]] = {}
    for answer in answers:
        sheets.setdefault(answer.problem_id, []).append(answer)
    return list(sheets.values())


def share_of_status(answers: Sequence[Answer], status: str) -> float:
    return _mean([a.status == status for a in answers])


def rungs(n: int) -> list[int]:
    """1, 2, 4, ... and n: the k of pass@k."""
    return sorted({1 << i for i in range(n.bit_length())} | {n}) if n else []


def majority(sheet: Sequence[Answer], same: Same) -> float:
    """1 if the answer given most often is correct; of several given equally often, their share that is. No vote: 0."""
    parties: list[list[Answer]] = []
    for answer in sheet:
        if answer.status == "unparseable":
            continue
        party = next((p for p in parties if p[0].status == answer.status and same(p[0], answer)), None)
        if party is None:
            parties.append([answer])
        else:
            party.append(answer)
    most = max(map(len, parties), default=0)
    return _mean([p[0].status == "correct" for p in parties if len(p) == most])


def metric_rows(result: dict[str, float]) -> list[Row]:
    """For the table: what it is, and what came out."""
    problems = int(result["problems"])
    several = "pass@1" in result
    n = f", {int(result['answers'])} answers" if several else ""
    view = [(f"accuracy{' (avg@n)' if several else ''}", f"{_percent(result, 'accuracy')} of {problems} problems{n}")]
    view += [(name, _percent(result, name)) for name in result if name.startswith("pass@") and "_" not in name]
    if "majority" in result:
        view.append(("majority vote", _percent(result, "majority")))
    if problems:
        view.append(("one problem is worth", f"{100 / problems:.1f} points"))
    view += [
        ("no answer found", f"{100 * result['unparseable']:.1f}%"),
        ("cut off", f"{100 * result['truncated']:.1f}%, of all {100 * result['endless']:.1f}% while repeating itself"),
        ("length", f"{result['tokens']:.0f} tokens on average"),
        ("speed", f"{result['tokens_per_second']:,.0f} tokens/s, {result['seconds']:,.0f} s"),
    ]
    if result["failed"]:
        view.append(("failed", f"{int(result['failed'])} requests had no answer; the same command asks again"))
    return view


def markdown_table(title: str, view: Sequence[Row]) -> str:
    return "\n".join([f"| {title} | |", "|---|---|", *(f"| {a} | {b} |" for a, b in view)]) + "\n"


def _with_interval(name: str, values: Sequence[float], binary: bool) -> dict[str, float]:
    interval: Interval = wilson(sum(values), len(values)) if binary else mean_interval(values)
    return {name: _mean(values), f"{name}_low": interval.low, f"{name}_high": interval.high}


def _percent(result: dict[str, float], name: str) -> str:
    return f"{100 * result[name]:.1f}% [{100 * result[f'{name}_low']:.1f}, {100 * result[f'{name}_high']:.1f}]"


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0


def metrics_table(title: str, view: Sequence[Row]) -> Table:
    """For a person at a terminal."""
    shown = Table(title=Text(visible(title)), show_header=False, title_justify="left")
    for row in view:
        shown.add_row(*(Text(visible(part)) for part in row))
    return shown


def accuracy(result: dict[str, float]) -> str:
    return (
        f"{100 * result['accuracy']:.1f}% of {result['problems']} [{100 * result['accuracy_low']:.1f}, "
        f"{100 * result['accuracy_high']:.1f}]; no answer found in {100 * result['unparseable']:.0f}%, "
        f"{100 * result['truncated']:.0f}% cut off"
    )
