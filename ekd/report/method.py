"""What a method's name says: bucket_70_80, topk_20, random_10, vanilla, teacher_free. Other names are methods too."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NUMBER = r"(\d+(?:\.\d+)?)"
CONTROLS = ("vanilla", "teacher_free")
ORIGINAL = "bucket_70_80"  # the band that the original says is best


def name_of(config: Mapping[str, Any]) -> str:
    """A run's method by its resolved config: bucket_70_80, random_10, topk_20, vanilla, or teacher_free where cross
    entropy alone is paid. Any other selector, too, is named with its numbers, but for the seed.
    """
    selector, cross_entropy = config["selector"], str(config["loss"]["_target_"]).endswith("CrossEntropy")
    kind = str(selector["_target_"]).split(".")[-2]
    if kind == "vanilla" and (cross_entropy or config["student"].get("alpha_ce") == 1):
        return "teacher_free"
    numbers = [v for k, v in selector.items() if k != "seed" and isinstance(v, (int, float)) and v is not True]
    return "_".join([kind, *(f"{float(v):g}" for v in numbers if v is not False)])


def band(name: str) -> tuple[float, float] | None:
    """Percentiles of a bucket."""
    found = re.fullmatch(rf"bucket_{NUMBER}_{NUMBER}", name)
    return (float(found[1]), float(found[2])) if found else None


def width(name: str) -> float | None:
    """Per cent of the tokens that the name promises."""
    ends = band(name)
    found = re.fullmatch(rf"(?:topk|random)_{NUMBER}", name)
    if ends:
        return ends[1] - ends[0]
    return float(found[1]) if found else None


def is_random(name: str) -> bool:
    return name.startswith("random_")


def selects(name: str) -> bool:
    """Whether it chooses tokens by something: no control."""
    return name not in CONTROLS and not is_random(name)


def matched_random(name: str, methods: Iterable[str]) -> str | None:
    """The method that takes as many tokens by chance."""
    share = width(name)
    return next((other for other in methods if is_random(other) and share is not None and width(other) == share), None)


def pairs(methods: Sequence[str]) -> list[tuple[str, str]]:
    """Every comparison that a sweep is made for: each method to vanilla, each that selects to its random control."""
    found = [(name, "vanilla") for name in methods if name != "vanilla" and "vanilla" in methods]
    for name in methods:
        control = matched_random(name, methods) if selects(name) else None
        if control:
            found.append((name, control))
    return found


def twins(table: Mapping[str, Mapping[int, float]]) -> dict[str, str]:
    """{bucket_90_100: topk_10}: two names of one method, where every seed of {method: {seed: value}} says so, too."""
    found = {name: f"topk_{100 - ends[0]:g}" for name in table if (ends := band(name)) and ends[1] == 100}
    return {name: other for name, other in found.items() if table[name] == table.get(other)}


def ordered(methods: Iterable[str]) -> list[str]:
    """Controls first, then topk, then the bands from low to high, wide ones last, then the rest."""
    names = set(methods)
    main = set(bands(names))

    def place(name: str) -> tuple[int, float, str]:
        ends = band(name)
        if name in CONTROLS:
            return (CONTROLS.index(name), 0, name)
        if is_random(name):
            return (2, width(name) or 0, name)
        if name.startswith("topk_"):
            return (3, width(name) or 0, name)
        return ((4 if name in main else 5), ends[0], name) if ends else (6, 0, name)

    return sorted(names, key=place)


def bands(methods: Iterable[str]) -> list[str]:
    """The buckets of the commonest width, from low to high: those that tile the percentiles."""
    names = [name for name in methods if band(name)]
    if not names:
        return []
    common = Counter(width(name) for name in names).most_common(1)[0][0]
    return sorted((name for name in names if width(name) == common), key=lambda name: band(name) or (0, 0))
