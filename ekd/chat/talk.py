"""The terminal: what is asked, what is answered, and how sure the writer was of every token."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ekd.chat.speakers import Full, Reply, Speaker
from ekd.outside import visible

# From how many nats of entropy on; black on each of them can be read, on a dark terminal and on a light one.
SHADES = ((0.25, "black on #fff7bc"), (0.75, "black on #fec44f"), (1.5, "black on #ec7014"))
WORDS = "/new begins anew, /quit (or Ctrl-D) ends"


def shaded(piece: str, nats: float) -> Text:
    style = next((style for edge, style in reversed(SHADES) if nats >= edge), "")
    return Text(visible(piece), style)


def legend() -> Text:
    edges = [(f" {edge:g} ", style) for edge, style in SHADES]
    return Text.assemble("nats of entropy: ", *edges, f"; {WORDS}")


def footer(reply: Reply) -> Text:
    """How many tokens, how unsure, and of which most."""
    if not reply.entropy:
        return Text("no token", "dim")
    most, piece = max(zip(reply.entropy, reply.pieces, strict=True))
    mean = sum(reply.entropy) / len(reply.entropy)
    said = f"{len(reply.entropy)} tokens, mean entropy {mean:.2f} nats, least sure of {piece!r} ({most:.2f})"
    return Text(visible(said) + (", cut off" if reply.finish == "length" else ""), "dim")


def questions(console: Console) -> Iterator[str]:
    """Lines of a person, or of a file or pipe, until it ends."""
    while True:
        try:
            yield input("you      ") if sys.stdin.isatty() else input()
        except EOFError:
            if sys.stdin.isatty():
                console.print()
            return


def talk(speakers: Sequence[Speaker], lines: Iterable[str], console: Console, seed: int) -> None:
    """One speaker is heard as it writes; two stand side by side when both have written."""
    console.print(legend())
    for turn, line in enumerate(lines):
        word = line.strip()
        if word == "/quit":
            return
        if word == "/new":
            for speaker in speakers:
                speaker.conversation.forget()
        if not word or word == "/new":
            continue
        try:
            if len(speakers) == 1:
                _aloud(speakers[0], word, console, seed + turn)
            else:
                _beside(speakers, word, console, seed + turn)
        except Full as full:
            console.print(Text(str(full), "bold"))


def _aloud(speaker: Speaker, question: str, console: Console, seed: int) -> None:
    console.print(Text(f"{speaker.name:<9}", "bold"), end="")

    def heard(piece: str, nats: float) -> None:
        console.print(shaded(piece, nats), end="", soft_wrap=True)

    reply = speaker.answer(question, seed, heard)
    console.print()
    console.print(footer(reply))


def _beside(speakers: Sequence[Speaker], question: str, console: Console, seed: int) -> None:
    table = Table.grid(padding=(0, 3), expand=True)
    texts, ends = [], []
    for speaker in speakers:
        table.add_column(ratio=1, overflow="fold")
        text = Text()

        def heard(piece: str, nats: float, text: Text = text) -> None:
            text.append_text(shaded(piece, nats))

        with console.status(f"{speaker.name} writes"):
            reply = speaker.answer(question, seed, heard)
        texts.append(text)
        ends.append(footer(reply))
    table.add_row(*(Text(speaker.name, "bold") for speaker in speakers))
    table.add_row(*texts)
    table.add_row(*ends)
    console.print(table)
