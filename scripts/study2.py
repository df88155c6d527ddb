"""The second study, docs/study2.md: which learning rate, what is kept of its cells, its tables and figures.

    python scripts/study2.py rates multirun/small_world_choose    # -> conf/experiment/parts/small_world_rates.yaml
    python scripts/study2.py keep multirun/small_world            # -> docs/study2_cells.jsonl.gz
    python scripts/study2.py page                                 # -> docs/study2_tables.md and docs/study2_*.svg
    python scripts/study2.py again                                # two cells anew, beside what was published
    python scripts/study2.py seconds                              # CPU seconds a step of each method

`page` reads nothing but the kept cells; `--check` exits with 1 if what is there is something else. What each table
means is said in docs/study2_plan.md.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib as mpl
import numpy as np
from omegaconf import OmegaConf
from scipy import stats

from ekd.files import read_json
from ekd.method import Method, method_of
from ekd.report.cell import Cell
from ekd.report.effects import Effect
from ekd.report.figures import bucket_curve
from ekd.report.findings import chance
from ekd.report.plain import Table, Value, markdown
from ekd.report.section import ACCURACY, KL, Result, Section, result, sections
from ekd.report.sweep import SweepCells
from ekd.report.tables import decile_table

ROOT = Path(__file__).parents[1]
RATES = ROOT / "conf" / "experiment" / "parts" / "small_world_rates.yaml"
KEPT = ROOT / "docs" / "study2_cells.jsonl.gz"
PAGE = ROOT / "docs" / "study2_tables.md"
PARTS = {
    "given_forward": "The teacher's texts, forward KL",
    "given_reverse": "The teacher's texts, reverse KL",
    "own_reverse": "The student's own texts, reverse KL",
    "own_forward": "The student's own texts, forward KL",
    "bands": "Bands and shares: the teacher's texts, forward KL",
    "given_forward_tokens": "The teacher's texts, forward KL, equal supervised tokens",
}
STEPS = (50, 250)
AGAIN = Path("multirun/study_again")
# What is compared, how far another machine may be, and where it is.
COMPARED: tuple[tuple[str, float, Callable[[dict[str, Any]], float]], ...] = (
    ("held-out KL, nats", 0.05, lambda figures: figures["after"]["val/kl"]),
    ("accuracy", 0.10, lambda figures: figures["benchmark"]["student after"]["accuracy"]),
)
OUTCOMES = ("accuracy", "agreed_right", "agreed_wrong", "parted_right", "parted_wrong")  # of a line of rounds.jsonl
METHOD = ("signal", "selector", "loss", "gate", "source", "policy", "seed", "student", "data", "teacher")
FIGURES = ("after", "before", "train", "minutes", "peak_memory_gb")


def cells_below(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(folder, metrics.json) of every finished run, in order; not of one that was made again."""
    for file in sorted(folder.rglob("metrics.json")):
        if "earlier-" not in str(file.relative_to(folder)):
            yield file.parent, read_json(file)


def choose(folder: Path) -> dict[str, dict[str, float]]:
    """{part: {method: the rate of the highest mean accuracy, of equal ones that of the lowest KL}}."""
    seen: dict[tuple[str, str], dict[float, list[tuple[float, float]]]] = {}
    for place, made in cells_below(folder):
        part, method = place.relative_to(folder).parts[:2]
        figures, rate = made["figures"], made["config"]["student"]["optimizer"]["lr"]
        marks = (figures["benchmark"]["student after"]["accuracy"], -figures["after"]["val/kl"])
        seen.setdefault((part, method), {}).setdefault(rate, []).append(marks)
    chosen: dict[str, dict[str, float]] = {}
    for (part, method), rates in seen.items():
        best = max(rates, key=lambda rate: tuple(mean(column) for column in zip(*rates[rate], strict=True)))
        chosen.setdefault(part, {})[method] = best
        said = "  ".join(f"{rate:g}: {100 * mean(a for a, _ in marks):.1f}%" for rate, marks in sorted(rates.items()))
        print(f"{part:<16} {method:<44} {best:g}   ({said})")
    return chosen


def write_rates(folder: Path) -> None:
    head = (
        "# @package _global_\n"
        "# Each method's learning rate in docs/study2.md. Chosen on the val split by seeds 8 and 9, part by part:\n"
        "# python scripts/study2.py rates multirun/small_world_choose\n"
        "# 0.003 all through a part: that part is not chosen yet.\n"
    )
    known = OmegaConf.merge(OmegaConf.load(RATES) if RATES.exists() else {}, {"rates": choose(folder)})
    RATES.write_text(head + OmegaConf.to_yaml(known))


def keep(folder: Path) -> None:
    """What the page needs of each cell: its method, its figures, and which problems it solved at which length.

    A part that is in the folder takes the place of what was kept of it; the other parts stay.
    """
    lines = []
    for place, made in cells_below(folder):
        config, figures = made["config"], made["figures"]
        answers = [json.loads(line) for line in (place / "answers.jsonl").read_text("utf-8").splitlines()]
        answers.sort(key=lambda answer: answer["problem_id"])
        lines.append({
            "part": place.relative_to(folder).parts[0],
            "rate": config["student"]["optimizer"]["lr"],
            "steps": config["trainer"]["max_steps"],
            "budget": made["budget"],
            "config": {key: _kept(key, config.get(key)) for key in METHOD},
            "figures": {key: figures[key] for key in FIGURES} | {"benchmark": figures["benchmark"]},
            "right": "".join(str(int(answer["status"] == "correct")) for answer in answers),
            "tokens": [answer["tokens"] for answer in answers],
            **_rounds(place),
            "commit": made["commit"],
            "launched": made["launched"],
        })  # fmt: skip
    lines = merged(kept_lines() if KEPT.exists() else [], lines)
    text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
    KEPT.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{len(lines)} cells, {KEPT.stat().st_size / 1e6:.1f} MB in {KEPT}")


def merged(kept: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines in the order of the parts. Raises SystemExit for a part that has fewer cells now: it is not whole."""
    before, now = (Counter(line["part"] for line in lines) for lines in (kept, found))
    for part, count in now.items():
        if part not in PARTS:
            raise SystemExit(f"{part} is no part of the study: {', '.join(PARTS)}")
        if count < before[part]:
            raise SystemExit(f"{part} has {count} cells and {before[part]} are kept: run the others, too")
    lines = [line for line in kept if line["part"] not in now] + found
    return sorted(lines, key=lambda line: list(PARTS).index(line["part"]))


def _rounds(place: Path) -> dict[str, Any]:
    """Of the last third of a run's rounds the means; nothing where the texts were the teacher's."""
    if not (place / "rounds.jsonl").exists():
        return {}
    rounds = [json.loads(line) for line in (place / "rounds.jsonl").read_text("utf-8").splitlines()]
    last = rounds[-max(len(rounds) // 3, 1) :]
    return {"rounds": {name: mean(one[name] for one in last) for name in OUTCOMES}}


def _kept(key: str, node: Any) -> Any:
    """Of teacher, student and data no places and no copies of other groups; the rest as it is."""
    aside = ("collector", "model", "start", "source", "signal", "selector", "loss", "gate", "optimizer", "lora")
    if key in ("student", "data", "teacher"):
        return {name: value for name, value in node.items() if name not in aside}
    return node


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
        text.append(
            f"## {PARTS[part]}\n\n{len(cells)} cells, {len(section.seeds)} seeds, commit {', '.join(commits)}.\n"
        )
        text.append(markdown(outcome_table(section, lines)))
        if all("rounds" in line for _, line in cells):
            table = disagreement_table(section, lines)
            text.append(f"### {table.caption}\n\n{markdown(table)}")
        deciles = decile_table(section)
        if deciles is not None:
            text.append(f"### {deciles.caption}\n\n{markdown(deciles)}")
        for metric in (ACCURACY, KL):
            found = result(section, metric)
            if found is not None and part == "bands":
                files[ROOT / "docs" / f"study2_bands_{metric.name}.svg"] = _svg(found)
    return {PAGE: "\n".join(text).encode(), **files}


def _svg(measured: Result) -> bytes:
    out = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "ekd"}):
        bucket_curve(measured).savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def again() -> None:
    """Two cells anew, beside what was published. Another machine may round sums otherwise, from the first step on."""
    part, methods, seed = "given_forward", ("vanilla", "topk_20"), 0
    subprocess.run([sys.executable, ROOT / "scripts/study_world.py", "world", "teacher", f"student_{seed}"], check=True)
    shutil.rmtree(AGAIN, ignore_errors=True)  # of an earlier time: finished cells would not be run again
    words = [f"experiment=small_world_{part}", f"method={','.join(methods)}", f"seed={seed}"]
    subprocess.run([sys.executable, "-m", "ekd.train", "-m", *words, f"hydra.sweep.dir={AGAIN}"], check=True)
    published = {cell.method.name: cell for cell, _ in read_kept()[part] if cell.seed == seed}
    far = []
    for method in methods:
        found = read_json(AGAIN / method / f"seed_{seed}" / "metrics.json")["figures"]
        for name, reach, read in COMPARED:
            one, other = read(published[method].figures), read(found)
            print(f"{method:<10} {name:<20} published {one:.6f}  here {other:.6f}  difference {other - one:+.6f}")
            far += [f"{name} of {method}"] if abs(other - one) > reach else []
    if far:
        raise SystemExit(f"farther from what was published than another machine explains: {', '.join(far)}")


def seconds() -> None:
    """Of a step: 250 steps less 50, one seed, nothing evaluated. Of the CPU, since others may use the machine, too."""
    part, found = "given_forward", {}
    for method in OmegaConf.load(RATES).rates[part]:
        few, many = (_cpu_seconds(part, method, steps) for steps in STEPS)
        found[method] = (many - few) / (STEPS[1] - STEPS[0])
        ratio = found[method] / next(iter(found.values()))
        print(f"{method:<44} {1000 * found[method]:.1f} ms a step, {ratio:.2f} of the first", flush=True)


def _cpu_seconds(part: str, method: str, steps: int) -> float:
    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    words = ["hydra.mode=RUN", f"experiment=small_world_{part}", f"method={method}", "seed=0", "benchmark.problems=0"]
    words += [f"trainer.max_steps={steps}", f"trainer.val_check_interval={steps}"]
    before = spent()
    with TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "ekd.train", *words, f"hydra.run.dir={folder}"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return spent() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rates", "keep", "page", "again", "seconds"])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    if asked.what == "page":
        for file, content in page().items():
            if not asked.check:
                file.write_bytes(content)
            elif not file.exists() or file.read_bytes() != content:
                raise SystemExit(f"{file} is not what `python scripts/study2.py page` makes: run it")
    elif asked.what in ("again", "seconds"):
        {"again": again, "seconds": seconds}[asked.what]()
    elif asked.folder is None:
        parser.error(f"{asked.what} needs the folder of a sweep")
    else:
        {"rates": write_rates, "keep": keep}[asked.what](asked.folder)


if __name__ == "__main__":
    main()
