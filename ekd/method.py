"""What a run's method is: read off its config, named by what differs from the defaults, equal when equal.

A method is everything that decides what a student learns from a text and at which price: source, signal, selector,
loss, samples, draws, temperature, tail, the share of cross entropy (of all rows, or by a gate). Teacher, student, data
and learning rate are no part of it: they are the conditions under which methods are compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ekd.renamed import current_run

# A wheel carries conf/ inside the package; a checkout has it beside.
CONF = next(
    folder for folder in (Path(__file__).parent / "conf", Path(__file__).parents[1] / "conf") if folder.is_dir()
)

SETS = ("signal", "selector", "loss", "gate", "source", "policy", "data", "teacher", "student")  # keys of its preset
UNSCORED = ("vanilla", "random")  # selectors that do not look at the score, so that no signal is part of the method
# Where a method's parts say how a model is loaded or how the work is cut: no part of the method.
PLUMBING = frozenset(
    {"_target_", "model", "layers", "dtype", "attention", "quantize", "trust_remote_code", "device", "max_tokens"}
    | {"tokenizer", "head_mb", "steps", "accumulate", "store", "batch_size"}
)
SHORT = {"k_percent", "percent", "lower", "upper", "at_least"}  # said as a bare number: topk_20, bucket_70_80
NEAR = 0.1  # a control's measured share may differ by so much of the method's own

Value = bool | int | float | str | None | tuple[Any, ...]


class Part(NamedTuple):
    """One actor of a method and its values, as the config has them."""

    name: str  # of its file: topk, student_entropy, reverse_kl
    values: tuple[tuple[str, Value], ...] = ()

    def get(self, key: str) -> Any:
        return dict(self.values).get(key)


class Method(NamedTuple):
    """Equal methods are equal values."""

    selector: Part
    signal: Part | None  # None: the selector does not look at a score
    loss: Part
    source: Part = Part("cached")
    policy: Part | None = None  # who writes the texts of cached traces; None: the teacher or the dataset
    samples: Part | None = None  # which traces; None: all
    draws: int = 0  # the teacher's rows are counts of so many draws; 0: logprobs
    temperature: float = 1.0
    alpha_ce: float = 0.0
    gate: Part | None = None  # which rows pay cross entropy in place of the loss; None: none
    tail: str = "bucket"
    unmatched: str = "end"

    @property
    def name(self) -> str:
        """topk_20, bucket_70_80-student_entropy, vanilla-dkd, teacher_free: selector first, then what is not usual."""
        if self.is_teacher_free and self._replace(loss=FORWARD_KL) == VANILLA:
            return "teacher_free"
        words = [spelled("selector", self.selector)]
        words += [spelled("signal", self.signal)] if self.signal not in (None, TEACHER_ENTROPY) else []
        words += [spelled("loss", self.loss)] if self.loss != FORWARD_KL else []
        words += [spelled("source", self.source)] if self.source != Part("cached") else []
        words += [spelled("policy", self.policy)] if self.policy else []
        words += [spelled("data/samples", self.samples)] if self.samples else []
        words += [f"draws_{self.draws}"] if self.draws else []
        words += [f"T_{self.temperature:g}"] if self.temperature != 1 else []
        words += [f"ce_{self.alpha_ce:g}"] if self.alpha_ce else []
        words += [gated(self.gate)] if self.gate else []
        words += [self.tail] if self.tail != "bucket" else []
        words += [f"unmatched_{self.unmatched}"] if self.unmatched != "end" else []
        return "-".join(words)

    def __str__(self) -> str:
        return self.name

    @property
    def is_teacher_free(self) -> bool:
        """Cross entropy alone, on every token: no distillation."""
        return self.loss.name == "cross_entropy" and self.selector.name == "vanilla"

    @property
    def is_random(self) -> bool:
        return self.selector.name == "random"

    @property
    def selects(self) -> bool:
        """Whether it chooses tokens by something: no control."""
        return self.selector.name not in UNSCORED

    @property
    def band(self) -> tuple[float, float] | None:
        """Percentiles of a bucket."""
        return (self.selector.get("lower"), self.selector.get("upper")) if self.selector.name == "bucket" else None

    @property
    def width(self) -> float | None:
        """Per cent of the tokens that the selector promises; None where it promises none."""
        if self.band:
            return self.band[1] - self.band[0]
        return self.selector.get("k_percent") if self.selector.name in ("topk", "random") else None

    @property
    def plain(self) -> Method:
        """The same in everything else, on every token."""
        return self._replace(selector=Part("vanilla"), signal=None)

    def is_control_of(self, other: Method) -> bool:
        """Random tokens in place of chosen ones, all else equal. Whether the shares agree has to be measured."""
        return other.selects and self.is_random and self.plain == other.plain


FORWARD_KL, TEACHER_ENTROPY = Part("forward_kl"), Part("teacher_entropy")
VANILLA = Method(Part("vanilla"), None, FORWARD_KL)
TEACHER_FREE = VANILLA._replace(loss=Part("cross_entropy"))
ORIGINAL = VANILLA._replace(  # the band that the original says is best
    selector=Part("bucket", (("lower", 70.0), ("scope", "sequence"), ("upper", 80.0))), signal=TEACHER_ENTROPY
)


def method_of(config: Mapping[str, Any]) -> Method:
    """config: a run's, resolved, as run.json keeps it; of version 0.1, too."""
    config = current_run({"config": config})["config"]
    student, selector = config["student"], part_of(config["selector"])
    loss, alpha = part_of(config["loss"]), float(student.get("alpha_ce") or 0)
    if alpha == 1 or loss.name == "cross_entropy":  # two spellings of one loss
        loss, alpha = Part("cross_entropy"), 0.0
    samples = (config.get("data") or {}).get("samples")
    source, policy = config.get("source"), config.get("policy")
    return Method(
        selector=selector,
        signal=None if selector.name in UNSCORED else part_of(config["signal"]),
        loss=loss,
        source=part_of(source) if source else Part("cached"),
        policy=part_of(policy) if policy else None,
        samples=part_of(samples) if samples else None,
        draws=int((config.get("teacher") or {}).get("draws") or 0),
        temperature=float(student.get("temperature") or 1),
        alpha_ce=alpha,
        gate=gate_of(config["gate"]) if config.get("gate") else None,
        tail=str(student.get("tail") or "bucket"),
        unmatched=str(student.get("unmatched") or "end"),
    )


def part_of(node: Mapping[str, Any]) -> Part:
    """The actor that a config node builds. A seed is a repetition, not a method, but for the choice of samples."""
    kept = {key: value for key, value in node.items() if key not in PLUMBING and key != "seed"}
    return Part(
        actor_name(str(node["_target_"])), tuple(sorted((key, comparable(value)) for key, value in kept.items()))
    )


def actor_name(target: str) -> str:
    """ekd.selector.topk.TopK -> topk: of its file, or of the class where several share one (top_samples; student, of
    ekd.data.policy.StudentPolicy).
    """
    module, _, name = target.rpartition(".")
    file = module.rpartition(".")[2]
    if file.replace("_", "") == name.lower():
        return file
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().removesuffix(f"_{file}")


def comparable(value: Any) -> Value:
    """A config's value as one that can be compared and kept in a set: 20 and 20.0 are the same."""
    if isinstance(value, Mapping):
        return part_of(value) if "_target_" in value else tuple(sorted((k, comparable(v)) for k, v in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(comparable(one) for one in value)
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def spelled(group: str, part: Part | None) -> str:
    """topk_20, jsd_beta_0.9: bare numbers for what a selector is known by, key and value for what is not usual."""
    if part is None:
        return ""
    numbers = [worded(value) for key, value in part.values if key in SHORT]
    words = [key if value is True else f"{key}_{worded(value)}" for key, value in unusual(group, part)]
    return "_".join([part.name, *numbers, *words])


def gated(gate: Part) -> str:
    """hard_others_topk_20_teacher_entropy: who pays cross entropy, and what divides."""
    parts = (spelled(group, gate.get(group)) for group in ("selector", "signal"))
    return "_".join(["hard", gate.get("hard"), *filter(None, parts)])


def gate_of(node: Mapping[str, Any]) -> Part:
    gate = part_of(node)
    selector = gate.get("selector")
    blind = selector is not None and selector.name in UNSCORED
    return gate._replace(values=tuple(pair for pair in gate.values if not (blind and pair[0] == "signal")))


def unusual(group: str, part: Part) -> Iterator[tuple[str, Value]]:
    """What is neither known by its number nor as conf/ has it; of a source's or a policy's own parts, too."""
    usual = defaults(group, part.name)
    for key, value in part.values:
        if isinstance(value, Part) and group in ("source", "policy"):
            known = usual.get(key)
            own = dict(known.values) if isinstance(known, Part) else {}
            inner = [pair for pair in value.values if pair[0] not in own or pair[1] != own[pair[0]]]
            yield from inner if own else unusual(group, value)
        elif key not in SHORT and (key not in usual or usual[key] != value):
            yield key, value


def worded(value: Value) -> str:
    if isinstance(value, Part):
        return spelled("signal", value)
    if isinstance(value, tuple):  # a list, or a mapping as pairs; an actor says its name itself
        pair = len(value) == 2 and isinstance(value[1], Part)
        return worded(value[1]) if pair else "_".join(worded(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value).replace("/", "_").strip("_")


@cache
def defaults(group: str, name: str) -> dict[str, Value]:
    """What conf/ says of an actor; empty for one of a user's own package."""
    file = CONF / group / f"{name}.yaml"
    known = name.isidentifier() and file.is_file()  # a stranger's run may be called anything, a path among others
    node = yaml.safe_load(file.read_text(encoding="utf-8")) if known else {}
    return {key: comparable(value) for key, value in (node or {}).items() if key != "defaults"}


def control_of(method: Method, shares: Mapping[Method, float]) -> Method | None:
    """The random method whose measured share of tokens is nearest; None where none is within NEAR of it.

    shares: what each method of the comparison was seen to take, 0 to 1.
    """
    own = shares[method]
    near = [other for other in shares if other.is_control_of(method) and abs(shares[other] - own) <= NEAR * own]
    return min(near, key=lambda other: abs(shares[other] - own), default=None)


def comparisons_of(shares: Mapping[Method, float]) -> list[tuple[Method, Method]]:
    """Every comparison a sweep is made for: a method with itself on every token, and with its random control."""
    found = [(one, one.plain) for one in shares if one != one.plain and one.plain in shares]
    # Another loss on every token is a method, too: it is held against plain distillation.
    found += [(one, VANILLA) for one in shares if one == one.plain and one != VANILLA and VANILLA in shares]
    return found + [(one, control) for one in shares if (control := control_of(one, shares)) is not None]


def twins_of(table: Mapping[Method, Mapping[int, float]]) -> dict[Method, Method]:
    """{bucket_90_100: topk_10}: two names of one choice, where every seed of {method: {seed: value}} says so, too."""
    found = {one: _from_top(one) for one in table if one.band and one.band[1] == 100}
    return {one: other for one, other in found.items() if table[one] == table.get(other)}


def _from_top(one: Method) -> Method:
    kept = [(key, value) for key, value in one.selector.values if key not in ("lower", "upper")]
    return one._replace(selector=Part("topk", tuple(sorted([("k_percent", 100 - one.selector.get("lower")), *kept]))))


def ordered(methods: Iterable[Method]) -> list[Method]:
    """Controls first, then topk, then the bands from low to high, wide ones last, then the rest; then by name."""
    known = set(methods)
    tiles = set(tiling(known))

    def place(one: Method) -> tuple[int, float, str]:
        if one.is_teacher_free or one == one.plain:
            return (1 if one.is_teacher_free else 0, 0, one.name)
        if one.is_random:
            return (2, one.width or 0, one.name)
        if one.selector.name == "topk":
            return (3, one.width or 0, one.name)
        return ((4 if one in tiles else 5), one.band[0], one.name) if one.band else (6, 0, one.name)

    return sorted(known, key=place)


def tiling(methods: Iterable[Method]) -> list[Method]:
    """The buckets of the commonest width, from low to high: those that tile the percentiles. One score and loss. Of
    equally common widths that of the lowest bucket's, whatever order a set has them in.
    """
    bands = sorted((one for one in methods if one.band), key=lambda one: (one.band or (0, 0), one.name))
    families: dict[tuple[Any, ...], list[Method]] = {}
    for one in bands:
        families.setdefault((one.width, one.signal, one.plain), []).append(one)
    most: Sequence[Method] = max(families.values(), key=len, default=[])
    return sorted(most, key=lambda one: one.band or (0, 0))
