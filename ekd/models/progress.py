"""How far long work is, in one look: a bar on a terminal; elsewhere (a file, a pipe) a plain line every so often."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Event, Thread
from time import monotonic
from typing import TypeVar

import rich
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

SECONDS = 30.0  # between two plain lines

T = TypeVar("T")


class ProgressBar:
    """`done` of `total` of something (`unit`), for how long, how long still, and a note of the work's own.

    total: None where nobody knows. transient: gone from the terminal when it is over, and unless it took longer than
    SECONDS it leaves no plain line. Bars may be nested; the inner one is drawn below.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        *,
        done: int = 0,
        unit: str = "",
        quiet: bool = False,
        transient: bool = False,
    ) -> None:
        self.what, self.total, self.unit, self.transient = what, total, unit, transient
        self.start, self.done, self.note = done, done, ""
        console = rich.get_console()
        drawn = console.is_interactive and not console.is_dumb_terminal
        self.plain = not quiet and not drawn
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            _Count(),
            _Times(),
            TextColumn("{task.fields[note]}"),
        )
        self.bar = Progress(*columns, console=console, expand=True, transient=transient, disable=quiet or not drawn)
        self.task = self.bar.add_task(what, total=total, completed=done, note="", bar=self)

    def __enter__(self) -> ProgressBar:
        self.began, self.told, self.over = monotonic(), False, Event()
        self.bar.start()
        if self.plain:  # by the clock: work that is done in batches reports in bursts, or for long not at all
            Thread(target=self._tell, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.bar.stop()
        if self.plain and (self.told or not self.transient):
            self._say()

    def update(self, done: int, note: str | None = None) -> None:
        """done: of the whole, not since the last call. note: None leaves it."""
        self.done, self.note = done, self.note if note is None else note
        self.bar.update(self.task, completed=done, note=self.note)

    @property
    def seconds(self) -> float:
        return max(monotonic() - self.began, 1e-9)

    @property
    def left(self) -> float | None:
        """Seconds, at the pace so far; None: before anything is done, and where nobody knows how much there is."""
        made = self.done - self.start
        return None if self.total is None or made <= 0 else self.seconds / made * (self.total - self.done)

    @property
    def count(self) -> str:
        of = "" if self.total is None else f"/{self.total:,}"
        return f"{self.done:,}{of} {self.unit}".rstrip()

    def _tell(self) -> None:
        while not self.over.wait(SECONDS):
            self.told = True
            self._say()

    def _say(self) -> None:
        left = self.left
        times = clock(self.seconds) + (f", {clock(left)} left" if left and left >= 0.5 else "")
        print(", ".join(part for part in (f"{self.what}: {self.count}", times, self.note) if part), flush=True)


def tracked(items: Sequence[T], what: str, *, quiet: bool = False, transient: bool = False) -> Iterator[T]:
    """The items one by one, under a bar; without a bar where there are none."""
    with ProgressBar(what, len(items), quiet=quiet or not items, transient=transient) as bar:
        for n, item in enumerate(items, 1):
            yield item
            bar.update(n)


def clock(seconds: float) -> str:
    """75 -> 1:15; 3,700 -> 1:01:40."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _Count(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields["bar"].count, style="progress.download")


class _Times(ProgressColumn):
    """0:15 < 1:10, since the beginning and until the end."""

    def render(self, task: Task) -> Text:
        bar: ProgressBar = task.fields["bar"]
        left = bar.left
        return Text(
            clock(task.elapsed or 0) + (f" < {clock(left)}" if left and left >= 0.5 else ""), style="progress.elapsed"
        )
