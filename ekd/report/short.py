"""Names of a comparison's methods, short enough to be read side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ekd.method import VANILLA, Method, Part

LONG = 60  # letters
# What a name does not need where all methods have it alike. A signal stays: topk_20 alone is by the teacher's entropy.
SHARED = tuple(part for part in Method._fields if part not in ("selector", "signal"))


def short_names(methods: Sequence[Method]) -> dict[Method, str]:
    """What tells the methods apart: names without what all have in common, and without how texts are written where all
    write them so. A name of a screen's length is cut. The whole names where two would become one.
    """
    short = [one._replace(**{part: getattr(VANILLA, part) for part in shared(methods)}) for one in methods]
    for part in ("source", "policy") if len(methods) > 1 else ():
        seen = {getattr(one, part) for one in short}
        bare: list[dict[str, Any]] = [{part: _without_values(getattr(one, part), seen)} for one in short]
        short = [one._replace(**changed) for one, changed in zip(short, bare, strict=True)]
    labels = [one.name if len(one.name) <= LONG else f"{one.name[: LONG - 1]}…" for one in short]
    found = dict(zip(methods, labels, strict=True))
    return found if len(set(labels)) == len(found) else {one: one.name for one in methods}


def shared(methods: Sequence[Method]) -> list[str]:
    """The parts that are left out of every name: alike in all methods, and not the usual ones."""
    if len(methods) < 2 or any(one.is_teacher_free for one in methods):  # without its loss it would be called vanilla
        return []
    first = methods[0]
    alike = [part for part in SHARED if all(getattr(one, part) == getattr(first, part) for one in methods)]
    return [part for part in alike if getattr(first, part) != getattr(VANILLA, part)]


def left_out(methods: Sequence[Method]) -> str:
    """A sentence for a caption; "" where the names are whole."""
    short = short_names(methods)
    if all(label == one.name for one, label in short.items()):
        return ""
    whole = methods[0]._asdict()
    values = {part: whole[part].name if isinstance(whole[part], Part) else whole[part] for part in shared(methods)}
    common = ", ".join(f"{part} {value}" for part, value in values.items())
    also = f" All methods have {common}." if common else ""
    return f" Names are cut to what tells these methods apart; the tables' files have them whole.{also}"


def _without_values(held: Part | None, seen: set[Part | None]) -> Part | None:
    """As it is where others of its name have other values."""
    namesakes = {other for other in seen if other is not None and held is not None and other.name == held.name}
    return Part(held.name) if held is not None and len(namesakes) == 1 else held
