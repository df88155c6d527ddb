"""What a reader has to know before believing a section: few seeds, unequal tokens, uncommitted code, mixed settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean

from scipy import stats

from ekd.distill.provenance import start_of
from ekd.report.cell import Cell
from ekd.report.conditions import settings_of
from ekd.report.section import Result, Section
from ekd.report.sweep import curve

FEW = 5  # seeds
FALLING = 0.02  # of held-out KL from one validation to the next: still learning
UNEQUAL = 1.05  # tokens of one method over another's
SHOWN = 4  # names before "and more"


def cautions(section: Section, main: Result) -> list[str]:
    return [
        *_seeds(section, main),
        *_added(section),
        *_shares(section),
        *_tokens(section),
        *_falling(section.cells),
        *_starts(section.cells),
        *_code(section.cells),
        *_settings(section.cells),
    ]


def some(names: Sequence[object]) -> str:
    """a, b, c, d and 7 more."""
    more = len(names) - SHOWN
    return ", ".join(map(str, names[:SHOWN])) + (f" and {more} more" if more > 0 else "")


def _seeds(section: Section, main: Result) -> Iterator[str]:
    n = len(section.seeds)
    if n == 1:
        yield "One seed: there are no intervals and no tests, and every difference below may be chance. Run at least 3."
    elif n < FEW:
        wide = stats.t.ppf(0.975, n - 1)
        yield (
            f"{n} seeds: a paired interval has {n - 1} degree{'s' * (n > 2)} of freedom and reaches {wide:.1f} "
            "standard errors to each side, where many seeds would need 2.0. It takes differences to be about normal."
        )
    short = [name for name in main.table if len(main.table[name]) < n]
    if short:
        yield f"Not every method has every seed ({some(short)}): each comparison uses the seeds that both have."


def _added(section: Section) -> Iterator[str]:
    """Seeds that were started by another command than the first: nothing here says why, so it is asked."""
    first = {seed: min(_launch(cell) for cell in section.cells if cell.seed == seed) for seed in section.seeds}
    groups = [[seed for seed in section.seeds if first[seed] == launch] for launch in sorted(set(first.values()))]
    if len(groups) < 2:
        return
    spelled = "; ".join(f"seed{'s' * (len(g) > 1)} {some([str(s) for s in g])} {_when(first[g[0]])}" for g in groups)
    yield (
        f"The seeds come from {len(groups)} launches ({spelled}). If later ones were added after looking at the "
        "earlier, chance alone shows a difference about twice as often as the p values say (docs/study.md)."
    )


def _launch(cell: Cell) -> tuple[str, str]:
    """When its command was started; of runs that do not say, the command itself."""
    launched = str(cell.made.get("launched") or "")
    return launched, "" if launched else " ".join(map(str, cell.made.get("command") or ()))


def _when(launch: tuple[str, str]) -> str:
    return f"on {launch[0][:16].replace('T', ' ')} UTC" if launch[0] else "by a command of their own"


def _shares(section: Section) -> Iterator[str]:
    """A name promises a share; scores with ties (and short sequences) take another."""
    taken = section.shares
    for name in section.methods:
        control = section.control(name)
        if name.selects and control is None:
            yield (
                f"{name} took {100 * taken[name]:.1f}% of the tokens and no random run here took about as many: the "
                f"control to judge it by is selector=random selector.k_percent={100 * taken[name]:.3g}."
            )
        if control and not 1 / UNEQUAL < (taken[name] + 1e-9) / (taken[control] + 1e-9) < UNEQUAL:
            yield (
                f"{name} took {100 * taken[name]:.1f}% of the tokens and its control {control} "
                f"{100 * taken[control]:.1f}%, so they are not of the same share, whatever this page calls them; the "
                f"control to judge it by is selector=random selector.k_percent={100 * taken[name]:.3g}."
            )


def _tokens(section: Section) -> Iterator[str]:
    seen = {name: mean(_supervised(cell) for cell in section.of(name)) for name in section.methods}
    low, high = min(seen, key=lambda name: seen[name]), max(seen, key=lambda name: seen[name])
    if seen[high] > UNEQUAL * seen[low]:
        what = (
            "Supervised tokens were to be equal and are not"
            if section.budget == "tokens"
            else ("Supervised tokens are not equal between methods")
        )
        yield f"{what}: {low} learned from {seen[low]:,.0f}, {high} from {seen[high]:,.0f}."


def _supervised(cell: Cell) -> float:
    return float(cell.figures["train"]["supervised_tokens"])


def _falling(cells: Sequence[Cell]) -> Iterator[str]:
    """A student that still learns may end in another order."""
    falls = []
    for cell in cells:
        line = curve(cell)
        steps = [place for place, step in enumerate(line.steps) if step < line.steps[-1] - 1]
        if steps and line.steps[steps[-1]] > 0:  # not from the untrained student
            falls.append((line.kl[steps[-1]] - line.kl[-1]) / line.kl[-1])
    if falls and mean(falls) > FALLING:
        yield (
            f"Training had not come to an end: held-out KL still fell by {100 * mean(falls):.0f}% from the last "
            "validation but one to the last (mean over runs). Longer runs may end in another order."
        )


def _starts(cells: Sequence[Cell]) -> Iterator[str]:
    said = [start for cell in cells if (start := start_of(cell.made))]
    if said:
        yield f"{len(said)} of {len(cells)} runs did not begin with the model's own weights: {some(sorted(set(said)))}."


def _code(cells: Sequence[Cell]) -> Iterator[str]:
    changed = sum(bool(cell.made.get("changed")) for cell in cells)
    if changed:
        yield f"{changed} of {len(cells)} runs had uncommitted changes in ekd or conf: no commit says what they ran."
    commits = sorted({str(cell.made.get("commit"))[:9] for cell in cells})
    if commits == ["None"]:
        yield "No commit is known: ekd ran outside a git checkout."
    elif len(commits) > 1:
        yield f"The runs come from {len(commits)} commits ({some(commits)}): a difference may come from the code."
    for package in sorted({name for cell in cells for name in cell.made.get("versions", {})}):
        versions = sorted({str(cell.made["versions"].get(package)) for cell in cells if "versions" in cell.made})
        if len(versions) > 1:
            yield f"The runs used several versions of {package}: {some(versions)}."


def _settings(cells: Sequence[Cell]) -> Iterator[str]:
    """What goes with the method, or with nothing, and is no part of it."""
    flat = [settings_of(cell) for cell in cells]
    differ = sorted(key for key in set().union(*flat) if len({one.get(key) for one in flat}) > 1)
    if differ:
        yield f"Settings that are no part of a method differ between runs: {some(differ)}."
