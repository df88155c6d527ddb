"""Writes docs/methods.md, the table of every method, from the yamls and the docstrings of the classes that they name.

python scripts/methods_table.py            # write it
python scripts/methods_table.py --check    # exit 1 if it is stale
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import NamedTuple

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ekd.method import SETS

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
PAGE = ROOT / "docs" / "methods.md"
HEAD = """\
# Every method, in one table

Made by `python scripts/methods_table.py` from `conf/` and the docstrings; a test keeps it true. Do not edit.

A method is a **signal** (what is measured), a **selector** (how rows are chosen by it) and a **loss** (what a chosen
row costs), and any of each goes with any other: `signal=student_entropy selector=bucket selector.lower=70 loss=jsd`.
p is the teacher, q the student, H entropy in nats, y the token that came next, t = 0 ... n-1 its place in a response
of n tokens, s a score, w a weight. Sums over j run over the k ids that the teacher's row names and "everything else".

What a paper claims is a claim: beside a method always run `experiment=random` at the same share, `experiment=vanilla`
and `experiment=teacher_free`, over several seeds.
"""
SIGNALS = """\
## Signals: what is measured

From the *trace* alone a score costs nothing. The *student* costs one more pass of its LM head over the response rows:
forward only, no gradient, in chunks; the backbone's pass is the one that training makes anyway.
"""
SELECTORS = """\
## Selectors: how rows are chosen

None looks at a model. Those with a *memory* keep it in buffers: checkpoints carry it, and a resumed run goes on as if
it had never stopped. Weights are never negative, carry no gradient, and each sequence keeps one row at least.
The published bandit is `signal=bandit` with `topk` or `threshold` here, and the control without a teacher is
`experiment=teacher_free`.

A bucket takes both its ends, so equal scores are all in or all out: of a signal of few values (`teacher_accepts`) the
70th to 80th percentile may be half of the rows. Its control is random at the share that was *taken*, as the run says.
"""
LOSSES = """\
## Losses: what a chosen row costs

Prices of one row on k+1 categories, in nats, at `student.temperature`; `student.alpha_ce` mixes cross entropy into any.
"""
GATES = """\
## Gates: which rows pay cross entropy in place of the loss

`student.alpha_ce`, row by row; `signal@gate.signal=kl selector@gate.selector=threshold` divides the rows by something
else, and `selector@gate.selector=random` is the control.
"""
AXES = """\
## The other two axes: samples and classes

Which whole traces are trained on, `data/samples=`, is decided before training and never inside a batch; a signal is the
mean over a trace's rows, and its scores are kept beside the traces (under EKD_HOME where these are read-only).
`signal@data.samples.by=kl` takes another signal.
"""
CLASSES = """\
What the cache keeps of each row: the most likely ids up to a mass (`teacher.mass`, `teacher.max_k`), with the tail as
one category; or, with `teacher.draws=64`, the ids that 64 draws from the teacher gave and how often (RS-KD, [arXiv
2503.16870](https://arxiv.org/abs/2503.16870)): `p(j) ~ count_j / draws`, no tail. Draws are unbiased for
`loss=forward_kl`; other losses see a noisy teacher. Losses with a `KL(q, p)` (`reverse_kl`, `entropy_gated`,
`adaptive_kl`, `todi`) and signals that need p of every token (`teacher_ce`, `teacher_uncertainty`, `excess_ce`,
`ce_ratio`, `reverse_kl`, `bandit`, `rock`, `prompt_gap`, `soft_or` with `scale=minmax`, `accumulated` of one of these)
are refused with draws, as are temperatures other
than 1. The entropy of the teacher stays exact, and `val/kl` becomes an unbiased estimate of the KL over the whole
vocabulary, which lies above that on k+1 categories by what is inside the tail: compare drawn runs with drawn ones.
"""
PRESETS = """\
## Presets: published methods by name

`python -m ekd.train experiment=NAME`. Each is a few lines of differences in `conf/experiment/`.

Not there: the teacher's tokens put into a student's text while it writes. No paper of such a method under the name of
TIDE could be found to read (2604.26951, of that name, is about diffusion models), so there is no formula to be held to.
"""


class Entry(NamedTuple):
    name: str
    what: str  # the yaml's first comment
    settings: str  # its arguments
    formula: str
    source: str
    kind: type


def entries(group: str) -> Iterator[Entry]:
    for path in sorted((CONF / group).glob("*.yaml")):
        config = OmegaConf.load(path)
        assert isinstance(config, DictConfig)
        kind = get_class(config["_target_"])
        formula, source = parts(cleandoc(kind.__doc__ or ""))
        yield Entry(path.stem, comments(path)[0], settings(config), formula, source, kind)


def comments(path: Path) -> list[str]:
    lines = path.read_text().splitlines()
    return [line[2:] for line in lines if line.startswith("# ") and "@package" not in line]


def settings(config: DictConfig) -> str:
    return ", ".join(f"{k}={v}" for k, v in flat(config) if k not in ("_target_", "defaults") and "${" not in v)


def flat(config: DictConfig, prefix: str = "") -> Iterator[tuple[str, str]]:
    """key.key, value as one would write them on the command line."""
    for key in config:
        value = OmegaConf.to_container(config, resolve=False)[key]  # type: ignore[index,call-overload]
        if isinstance(value, dict):
            yield from flat(config[key], f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", spelled(value)


def spelled(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def parts(doc: str) -> tuple[str, str]:
    """A docstring's formula (what is indented) and its source."""
    paragraphs = doc.split("\n\n")
    formula = [p for p in paragraphs if p.startswith("    ")]
    source = [p.removeprefix("Source: ") for p in paragraphs if p.startswith("Source: ")]
    if len(formula) != 1 or len(source) != 1:
        raise ValueError(f"a docstring needs one indented formula and one paragraph 'Source: ...':\n{doc}")
    return "<br>".join(map(code, formula[0].splitlines())), one_line(source[0])


def one_line(text: str) -> str:
    return linked(" ".join(text.split()).rstrip("."))


def linked(text: str) -> str:
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def code(line: str) -> str:
    line = re.sub(" {2,}", " ", line.strip()).replace("|", r"\|")
    return f"`{line}`"


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cell or ' ' for cell in line)} |\n" for line in lines)


def named(entry: Entry) -> str:
    return f"`{entry.name}`" + (f"<br><sub>{entry.settings}</sub>" if entry.settings else "")


def needs(kind: type) -> tuple[str, str]:
    """What a signal needs, and what that costs."""
    if isinstance(vars(kind).get("needs_student"), property):
        return "its parts", "if a part needs it"
    if "review" in vars(kind):
        return "trace, student", "one head pass; and one of the whole student after the step, without gradient"
    return ("trace, student", "one head pass") if vars(kind)["needs_student"] else ("trace", "none")


def memory(kind: type) -> str:
    if not issubclass(kind, nn.Module):
        return "none"
    return "learns from prices" if "learn" in vars(kind) else "yes"


def preset(path: Path) -> list[str]:
    said = comments(path)
    link = next((line for line in said if line.startswith("https://")), "")
    what = " ".join(line for line in said if line != link)
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    chosen = {k.removeprefix("override /"): v for d in config["defaults"] for k, v in d.items()}
    values = [f"{g}.{k}={v}" for g in SETS if g in config for k, v in flat(config[g])]
    same_as = " ".join([*(f"{k}={v}" for k, v in chosen.items()), *values])
    return [f"`{path.stem}`", what, f"`{same_as}`", f"[paper]({link})" if link else ""]


def presets() -> Iterator[Path]:
    """The experiments that name a method: what is measured, chosen, paid and kept, and nothing else."""
    for path in sorted((CONF / "experiment").glob("*.yaml")):
        config = OmegaConf.load(path)
        assert isinstance(config, DictConfig)
        own = set(config) <= {"defaults", *SETS} and "defaults" in config
        if own and not any(isinstance(one, str) for one in config["defaults"]):  # one that stands on another experiment
            yield path


def page() -> str:
    signals = [[named(e), e.what, e.formula, *needs(e.kind), e.source] for e in entries("signal")]
    selectors = [[named(e), e.what, e.formula, memory(e.kind), e.source] for e in entries("selector")]
    losses = [[named(e), e.what, e.formula, e.source] for e in entries("loss")]
    gates = [[named(e), e.what, e.formula, e.source] for e in entries("gate")]
    samples = [[named(e), e.what, e.formula, e.source] for e in entries("data/samples")]
    return "\n".join(
        [
            HEAD,
            SIGNALS,
            table(["`signal=`", "what it is", "formula", "needs", "extra pass", "source"], signals),
            SELECTORS,
            table(["`selector=`", "what it is", "rule", "memory", "source"], selectors),
            LOSSES,
            table(["`loss=`", "what it is", "formula", "source"], losses),
            GATES,
            table(["`gate=`", "what it is", "rule", "source"], gates),
            AXES,
            table(["`data/samples=`", "what it is", "rule", "source"], samples),
            CLASSES,
            PRESETS,
            table(["`experiment=`", "what it is", "the same as", "link"], [preset(path) for path in presets()]),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Write docs/methods.md from conf/ and the docstrings.")
    parser.add_argument("--check", action="store_true", help="only say whether it is stale")
    text = page()
    if parser.parse_args().check:
        fresh = PAGE.is_file() and PAGE.read_text() == text
        print(f"{PAGE.relative_to(ROOT)} is {'up to date' if fresh else 'stale: run python scripts/methods_table.py'}")
        return 0 if fresh else 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text)
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
