"""Tables and figures of the second study, from its kept cells alone: `python scripts/study2.py page`."""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from statistics import mean, median
from typing import Any

import matplotlib as mpl
import numpy as np
from scipy import stats

from ekd.method import Method, method_of
from ekd.report.cell import Cell
from ekd.report.effects import Effect, compare_methods
from ekd.report.figures import bucket_curve
from ekd.report.findings import chance
from ekd.report.plain import Table, Value, markdown
from ekd.report.section import ACCURACY, KL, Result, Section, result, sections
from ekd.report.sweep import SweepCells
from ekd.report.tables import decile_table

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "docs" / "study2_cells.jsonl.gz"
PAGE = ROOT / "docs" / "study2_tables.md"
PARTS = {
    "given_forward": "The teacher's texts, forward KL",
    "given_reverse": "The teacher's texts, reverse KL",
    "own_reverse": "The student's own texts, reverse KL",
    "own_forward": "The student's own texts, forward KL",
    "bands": "Bands and shares: the teacher's texts, forward KL",
    "given_forward_tokens": "The teacher's texts, forward KL, equal supervised tokens",
    "own_claims": "Claims about the student's own texts",
    "smollm2": "SmolLM2-135M: given texts, forward KL",
}
# Of own_claims: method, against, because of. By the files of conf/method; nothing else is compared (study2_plan.md).
CLAIMS = (
    ("topk_20-prompt_gap-reverse_kl-rounds", "random_20-reverse_kl-rounds", "SA-OPD, CROP, Purified OPSD"),
    ("topk_20-prompt_gap-reverse_kl-rounds", "vanilla-reverse_kl-rounds", "the same"),
    ("threshold_0.5-rock_count_20-reverse_kl-rounds", "vanilla-reverse_kl-rounds", "2605.09253"),
    ("threshold_0.5-ordinary-reverse_kl-rounds-truncate", "vanilla-policy_gradient-rounds", "2603.25562"),
    ("vanilla-soft_clamp_of_reverse_kl-rounds", "vanilla-reverse_kl-rounds", "2607.07050, 2607.13399"),
    ("vanilla-policy_gradient-student", "vanilla-policy_gradient-rounds", "2604.13010"),
    ("topk_20-student_ce-fixed_advantage-rounds", "vanilla-policy_gradient-rounds", "2608.31046"),
)
WRITTEN = re.compile(r"_(problems_per_round|max_new_tokens|steps_per_round)_\d+")  # in a name: how texts are written
OUTCOMES = ("accuracy", "agreed_right", "agreed_wrong", "parted_right", "parted_wrong")  # of a line of rounds.jsonl


def kept_lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(KEPT.read_bytes()).decode().splitlines()]


def read_kept() -> dict[str, list[tuple[Cell, dict[str, Any]]]]:
    """{part: its cells, each with its line}."""
    found: dict[str, list[tuple[Cell, dict[str, Any]]]] = {part: [] for part in PARTS}
    for line in kept_lines():
        made = {"config": line["config"]}
        cell = Cell(Path(), line["budget"], method_of(line["config"]), line["config"]["seed"], line["figures"], made)
        found[line["part"]].append((cell, line))
    return {part: cells for part, cells in found.items() if cells}


def marks(lines: Sequence[dict[str, Any]]) -> np.ndarray:
    """(seeds, problems) 1.0 where solved."""
    ordered = sorted(lines, key=lambda line: line["config"]["seed"])
    return np.array([[float(mark) for mark in line["right"]] for line in ordered])


def over_problems(change: np.ndarray) -> float:
    """Half of the 95% interval of a mean difference (seeds, problems) for other seeds and other problems.

    The two variances are added: exact where seed and problem do not interact, too wide otherwise.
    """
    seeds, problems = change.shape
    variance = change.mean(1).var(ddof=1) / seeds + change.mean(0).var(ddof=1) / problems
    return float(stats.t.ppf(0.975, seeds - 1) * np.sqrt(variance))


def outcome_table(section: Section, lines: dict[Method, list[dict[str, Any]]]) -> Table:
    """Accuracy first, with its paired differences; KL and its own; what it cost."""
    accuracy, kl = result(section, ACCURACY), result(section, KL)
    assert accuracy is not None and kl is not None
    head = [
        *("method", "share, %", "learning rate", "accuracy, %", "minus random of the same share, points"),
        *("other problems, too", "p", "minus every token, points", "p", "held-out KL, nats"),
        *("minus random, nats", "p", "tokens an answer", "cut off, %"),
    ]
    rows = []
    for method in section.methods:
        against = accuracy.controls.get(method)
        after = [cell.figures["benchmark"]["student after"] for cell in section.of(method)]
        plain = method.plain if method != method.plain else next(one for one in section.methods if one == one.plain)
        change = None if against is None else 100 * (marks(lines[method]) - marks(lines[against]))
        rows.append([
            Value(method.name),
            Value(f"{100 * section.shares[method]:.1f}"),
            Value(", ".join(sorted({f"{line['rate']:g}" for line in lines[method]}))),
            _mean(accuracy, method),
            *_difference(accuracy, accuracy.against(method, against))[:1],
            Value("–" if change is None else f"± {over_problems(change):.1f}"),
            *_difference(accuracy, accuracy.against(method, against))[1:],
            *_difference(accuracy, accuracy.against(method, plain)),
            _mean(kl, method),
            *_difference(kl, kl.against(method, kl.controls.get(method))),
            Value(f"{mean(np.mean(line['tokens']) for line in lines[method]):.1f}"),
            Value(f"{100 * mean(one['truncated'] for one in after):.1f}"),
        ])  # fmt: skip
    notes = [
        f"{len(section.seeds)} paired seeds. Mean [95% interval]; p of the paired t test after Holm's correction for "
        f"the {len(accuracy.tested)} comparisons of this table; * p < 0.05, ? only an interval that excludes 0."
    ]
    return Table("outcomes", section.title, head, rows, [*notes, power(accuracy, "points"), power(kl, "nats")])


def claims_tables(section: Section, lines: dict[Method, list[dict[str, Any]]]) -> list[Table]:
    """What each method came to, and the comparisons that were planned, as one family for each outcome."""
    accuracy, kl = result(section, ACCURACY), result(section, KL)
    assert accuracy is not None and kl is not None
    short = {method: WRITTEN.sub("", method.name) for method in section.methods}
    whole = {name: method for method, name in short.items()}
    pairs = [(whole[one], whole[other]) for one, other, _ in CLAIMS]
    cut = {one: {c.seed: 100 * _after(c)["truncated"] for c in section.of(one)} for one in section.methods}
    families = [compare_methods(table, pairs) for table in (accuracy.table, kl.table, cut)]
    rows = [
        [
            Value(short[method]),
            Value(f"{100 * section.shares[method]:.1f}"),
            Value(", ".join(sorted({f"{line['rate']:g}" for line in lines[method]}))),
            _mean(accuracy, method),
            _mean(kl, method),
            Value(f"{mean(np.mean(line['tokens']) for line in lines[method]):.1f}"),
            Value(f"{mean(cut[method].values()):.1f}"),
        ]
        for method in section.methods
    ]
    head = ["method", "share, %", "learning rate", "accuracy, %", "held-out KL, nats", "tokens an answer", "cut off, %"]
    found = [Table("claims", section.title, head, rows, [f"{len(section.seeds)} paired seeds. Mean [95% interval]."])]
    rows = []
    for (one, other, why), effects in zip(CLAIMS, zip(*families, strict=True), strict=True):
        change = 100 * (marks(lines[whole[one]]) - marks(lines[whole[other]]))
        difference, p = _difference(accuracy, effects[0])
        rows.append([
            *(Value(one), Value(other), Value(why), difference, Value(f"± {over_problems(change):.1f}"), p),
            *_difference(kl, effects[1]),
            *_difference(accuracy, effects[2]),
        ])  # fmt: skip
    head = ["method", "against", "because of", "accuracy, points", "other problems, too", "p", "held-out KL, nats", "p"]
    note = (
        f"Method minus the other, paired by seed. [95% interval]; p after Holm's correction for the {len(CLAIMS)} "
        "comparisons of one outcome; * p < 0.05, ? only an interval that excludes 0."
    )
    return [*found, Table("compared", "What was compared", [*head, "cut off, points", "p"], rows, [note])]


def _after(cell: Cell) -> dict[str, float]:
    found: dict[str, float] = cell.figures["benchmark"]["student after"]
    return found


def disagreement_table(section: Section, lines: dict[Method, list[dict[str, Any]]]) -> Table:
    """The student's own texts of the last third of training: where the teacher would have written something else."""
    rows = []
    for method in section.methods:
        seen = {name: mean(line["rounds"][name] for line in lines[method]) for name in OUTCOMES}
        right, wrong = (sum(seen[f"{one}_{end}"] for one in ("agreed", "parted")) for end in ("right", "wrong"))
        shares = [seen["accuracy"], seen["parted_right"] / right, seen["parted_wrong"] / wrong, seen["agreed_wrong"]]
        rows.append([Value(method.name), *(Value(f"{100 * share:.1f}") for share in shares)])
    head = [
        *("method", "right texts, %", "tokens of right texts that the teacher would not have written, %"),
        *("of wrong texts, %", "all tokens that are in wrong texts and the teacher's likeliest, %"),
    ]
    return Table("disagreement", "Disagreement with the teacher by outcome", head, rows, [])


def calibration_table(section: Section) -> Table:
    """Whether a student is as sure of held-out tokens as it is right about them: mean -ln q beside its entropy."""
    rows = []
    for method in section.methods:
        cells = section.of(method)
        loss, entropy, agreed = (
            np.array([cell.figures["after"][f"val/{name}"] for cell in cells])
            for name in ("ce", "entropy", "agreement")
        )
        gap = entropy - loss
        half = stats.t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / np.sqrt(len(gap))
        rows.append([
            Value(method.name),
            *(Value(f"{values.mean():.3f}") for values in (loss, entropy)),
            Value(f"{gap.mean():+.3f} [{gap.mean() - half:+.3f}, {gap.mean() + half:+.3f}]".replace("-", "−")),
            Value(f"{100 * agreed.mean():.1f}"),
        ])  # fmt: skip
    head = ["method", "mean −ln q, nats", "entropy, nats", "entropy minus −ln q [95%]", "top-1 agreement, %"]
    note = "Held-out tokens of the teacher's texts. Below 0: surer than right."
    return Table("calibration", "Calibration", head, rows, [note])


def power(measured: Result, unit: str) -> str:
    """What difference from random tokens this could have seen in 80 of 100 repetitions, after the correction."""
    family = len(measured.tested)
    widths = [
        _seen(effect, family) for effect in measured.tested if effect.control.is_random and effect.high is not None
    ]
    if not widths:
        return f"No comparison with random tokens in {unit}."
    return (
        f"Could have seen (80% power, one comparison among {family}): {median(widths):.2g} {unit} in the median "
        f"comparison with random tokens, {max(widths):.2g} in the worst."
    )


def _seen(effect: Effect, family: int) -> float:
    assert effect.high is not None
    error = (effect.high - effect.difference) / stats.t.ppf(0.975, effect.n - 1)
    return float(error * (stats.t.ppf(1 - 0.025 / family, effect.n - 1) + stats.t.ppf(0.8, effect.n - 1)))


def _mean(measured: Result, method: Method) -> Value:
    found = measured.means[method]
    return Value(f"{measured.show(found.mean)} {measured.span(found.low, found.high)}")


def _difference(measured: Result, effect: Effect | None) -> list[Value]:
    if effect is None:
        return [Value("–"), Value("–")]
    mark = " *" if effect.found else " ?" if effect.hinted else ""
    span = measured.span(effect.low, effect.high)
    p = "–" if effect.corrected is None else chance(effect.corrected)
    return [Value(f"{measured.show(effect.difference, True)} {span}{mark}"), Value(p)]


def page() -> dict[Path, bytes]:
    """{file: what has to be in it}."""
    text, files = ["<!-- made by `python scripts/study2.py page` from docs/study2_cells.jsonl.gz -->\n"], {}
    for part, cells in read_kept().items():
        section = sections(SweepCells(Path(), [cell for cell, _ in cells], [], []))[0]
        lines: dict[Method, list[dict[str, Any]]] = {}
        for cell, line in cells:
            lines.setdefault(cell.method, []).append(line)
        commits = sorted({line["commit"][:7] for _, line in cells})
        if part == "own_claims":
            methods, compared = claims_tables(section, lines)
            own = [markdown(methods), f"### {compared.caption}\n\n{markdown(compared)}"]
        else:
            own = [markdown(outcome_table(section, lines))]
        if all("rounds" in line for _, line in cells):
            table = disagreement_table(section, lines)
            own.append(f"### {table.caption}\n\n{markdown(table)}")
        own.append(f"### Calibration\n\n{markdown(calibration_table(section))}")
        deciles = decile_table(section)
        if deciles is not None:
            own.append(f"### {deciles.caption}\n\n{markdown(deciles)}")
        same = in_all([method.name for method in section.methods])
        text.append(
            f"## {PARTS[part]}\n\n{len(cells)} cells, {len(section.seeds)} seeds, commit {', '.join(commits)}."
            + (f" All names end in `{same}`." if same else "")
            + "\n"
        )
        own = [WRITTEN.sub("", table) for table in own] if part == "own_claims" else own
        text += [table.replace(same, "") if same else table for table in own]
        for metric in (ACCURACY, KL):
            found = result(section, metric)
            if found is not None and part == "bands":
                files[ROOT / "docs" / f"study2_bands_{metric.name}.svg"] = _svg(found, section)
    return {PAGE: "\n".join(text).encode(), **files}


def in_all(names: Sequence[str]) -> str:
    """What all of them end in, part by part; "" where that is nothing."""
    ends = zip(*(reversed(name.split("-")) for name in names), strict=False)
    same = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, ends)]
    return "".join(f"-{part}" for part in reversed(same))


def _svg(measured: Result, section: Section) -> bytes:
    out = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "ekd"}):
        bucket_curve(measured, section.short).savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
