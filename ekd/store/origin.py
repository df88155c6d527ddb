"""What made a store, as plain JSON values: how its rows look, whose they are, and where two differ."""

from __future__ import annotations

from typing import Any

from ekd.store.codec import Layout
from ekd.store.location import Location


def layout_of(origin: dict[str, Any]) -> Layout:
    """Raises ValueError when the origin does not say how the rows look."""
    vocab, draws, coarse = origin.get("vocab"), origin.get("draws", 0), origin.get("coarse", 16)
    if not isinstance(vocab, int) or vocab < 1:
        raise ValueError(f"origin['vocab'] must be the size of the teacher's vocabulary, at least 1, not {vocab!r}")
    if not isinstance(draws, int) or not 0 <= draws < 1 << 16:
        raise ValueError(f"origin['draws'] must be an integer in 0 ... 65,535 (0: no sampling), not {draws!r}")
    if not isinstance(coarse, int) or not 1 <= coarse <= 64:
        raise ValueError(
            f"origin['coarse'] must be an integer in 1 ... 64 (largest step in 1/1024 nat), not {coarse!r}"
        )
    temperatures = origin.get("temperatures", [])
    if not isinstance(temperatures, list) or not all(isinstance(t, int | float) for t in temperatures):
        raise ValueError(f"origin['temperatures'] must be a list of numbers, not {temperatures!r}")
    align = origin.get("align", {})
    read = align.get("size", 0) if isinstance(align, dict) else None
    if not isinstance(read, int) or read < 0:
        raise ValueError(f"origin['align'] must say how rows were translated, not {align!r}")
    return Layout(vocab, draws, len(temperatures), coarse, read)


def teacher_of(origin: dict[str, Any]) -> str:
    """The name of the teacher: its model; "" where the store's maker did not say."""
    teacher = origin.get("teacher")
    if isinstance(teacher, dict):
        return str(teacher.get("model") or "")
    return teacher if isinstance(teacher, str) else ""


def what_differs(folder: Location, ours: dict[str, Any], asked: dict[str, Any]) -> str:
    """Both sides of every key that differs, nested ones as a.b, and the way out."""
    mine, theirs = flat_paths(ours), flat_paths(asked)
    names = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
    lines = [f"  {name}: {mine.get(name)!r} in the store, {theirs.get(name)!r} asked for" for name in names]
    return "\n".join(
        [
            f"the traces in {folder} were made differently:",
            *lines,
            "ask for what made them, or give another store folder",
        ]
    )


def flat_paths(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in tree.items():
        out |= flat_paths(value, f"{above}{name}.") if isinstance(value, dict) and value else {above + name: value}
    return out
