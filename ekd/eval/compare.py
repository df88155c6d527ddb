"""Two models on the same problems, side by side: is the difference more than chance, and which problems flipped.

page=true: also as a page with all answers, in compare/ beside B's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ekd.eval.answers import Answer, read_answers
from ekd.eval.metrics import Row, by_problem, metrics_table, share_of_status
from ekd.eval.statistics import LEVEL, Difference, difference, told_apart
from ekd.mistakes import Parser, sentence
from ekd.outside import visible

SHOWN = 20  # flipped problems on the screen; all are in the file


class Flip(NamedTuple):
    problem_id: str
    reference: str
    a: float  # share of A's answers that is correct
    b: float
    a_said: str
    b_said: str


class Comparison(NamedTuple):
    problems: int
    a: float
    b: float
    change: Difference  # b - a
    flips: list[Flip]  # gained first, then lost


def compare(a: list[Answer], b: list[Answer]) -> Comparison:
    """Over the problems that both answered. Raises ValueError where there is none, or where references differ."""
    ours, theirs = ({sheet[0].problem_id: sheet for sheet in by_problem(answers)} for answers in (a, b))
    both = [name for name in ours if name in theirs]
    if not both:
        raise ValueError("A and B have no problem in common: compare answers to the same dataset and split")
    for name in both:
        if ours[name][0].reference != theirs[name][0].reference:
            raise ValueError(
                f"problem {name} has the answer {ours[name][0].reference!r} in A and {theirs[name][0].reference!r} in "
                "B: these are different problems of the same name; evaluate both on one dataset"
            )
    flips = [_flip(ours[name], theirs[name]) for name in both]
    x, y = [f.a for f in flips], [f.b for f in flips]
    moved = sorted((f for f in flips if f.a != f.b), key=lambda f: f.a - f.b)
    return Comparison(len(both), sum(x) / len(x), sum(y) / len(y), difference(x, y), moved)


def main(words: list[str], write_page: Callable[[Comparison, Path, Path], Path]) -> int:
    """0 if they were compared, 2 after one sentence. write_page: of a comparison and the two files of answers."""
    from rich import print as show

    parser = Parser("python -m ekd.evaluate compare", description=__doc__)
    parser.add_argument("a", metavar="A", type=Path, help="a results folder (or its answers.jsonl), or a run's folder")
    parser.add_argument("b", metavar="B", type=Path, help="another; the difference is B - A")
    parser.add_argument("--out", type=Path, help="write everything, all flipped problems too, to this JSON file")
    asked = [word for word in words if word.startswith("page=")]  # said as other commands' settings are
    given = parser.parse_args([word for word in words if word not in asked])
    try:
        wanted = page_wanted(asked)
        a, b = locate(given.a), locate(given.b)
        found = compare(list(read_answers(a).values()), list(read_answers(b).values()))
    except (ValueError, OSError) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 2
    missing = max(len(by_problem(list(read_answers(path).values()))) for path in (a, b)) - found.problems
    print(f"A {a.parent}\nB {b.parent}")
    show(metrics_table("B against A", comparison_rows(found, missing)))
    for flip in found.flips[:SHOWN]:
        line = f"{flip.problem_id}: answer {flip.reference}, A {_said(flip, 'a')}, B {_said(flip, 'b')}"
        print(visible(f"{'+' if flip.b > flip.a else '-'} {line}"))
    if len(found.flips) > SHOWN:
        print(f"... and {len(found.flips) - SHOWN} more; --out FILE.json holds all")
    if given.out:
        given.out.write_text(json.dumps(comparison_json(found, a, b), indent=1))
    if wanted:
        print(f"page        open {write_page(found, a, b).resolve().as_uri()}")
    return 0


def page_wanted(asked: list[str]) -> bool:
    """Of page=true and page=false the last."""
    said = asked[-1].removeprefix("page=") if asked else "false"
    if said not in ("true", "false"):
        raise ValueError(f"page is true (all answers side by side, in a browser) or false, not {said!r}")
    return said == "true"


def comparison_rows(found: Comparison, missing: int = 0) -> list[Row]:
    change = found.change
    points = [100 * v for v in (change.value, change.low, change.high)]
    gained = sum(f.b > f.a for f in found.flips)
    view = [
        ("problems", f"{found.problems}" + (f" in common; {missing} are in one of them only" if missing else "")),
        ("accuracy", f"A {100 * found.a:.1f}%, B {100 * found.b:.1f}%"),
        ("B - A", f"{points[0]:+.1f} points [{points[1]:+.1f}, {points[2]:+.1f}]"),
        ("p", f"{change.p:.3g} ({change.test})"),
        ("flipped", f"{gained} better in B, {len(found.flips) - gained} better in A"),
    ]
    return [*view, ("in words", words(change))]


def words(change: Difference) -> str:
    """By the rule that the report goes by, too."""
    if told_apart(change.p, change.low, change.high):
        return "B is better" if change.value > 0 else "A is better"
    halves = change.p < 1 - LEVEL, not change.low <= 0 <= change.high
    why = "; its p and its interval do not agree" if any(halves) else ""
    return f"not told apart{why}"


def comparison_json(found: Comparison, a: Path, b: Path) -> dict[str, Any]:
    return {
        "A": str(a),
        "B": str(b),
        **found._asdict(),
        "change": found.change._asdict(),
        "flips": [flip._asdict() for flip in found.flips],
    }


def locate(path: Path) -> Path:
    """answers.jsonl of a results folder, of a training run, or of a run's only evaluation."""
    if path.is_file():
        return path
    if (path / "answers.jsonl").is_file():
        return path / "answers.jsonl"
    found = sorted(path.glob("eval/*/answers.jsonl"))
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{path} has several results; name one of {', '.join(str(f.parent) for f in found)}")
    raise ValueError(f"{path} holds no answers.jsonl; name the folder that python -m ekd.evaluate printed")


def _flip(ours: list[Answer], theirs: list[Answer]) -> Flip:
    first = ours[0]
    right = share_of_status(ours, "correct"), share_of_status(theirs, "correct")
    return Flip(first.problem_id, first.reference, *right, first.extracted, theirs[0].extracted)


def _said(flip: Flip, side: str) -> str:
    right, said = (flip.a, flip.a_said) if side == "a" else (flip.b, flip.b_said)
    return f"said {said[:40]!r}" if right in (0, 1) else f"{100 * right:.0f}% right"
