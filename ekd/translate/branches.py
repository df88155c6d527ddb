"""Tokens of both sides that do not end together: what the teacher might have said, followed token by token.

A branch is one word that the teacher named, behind the words that came before it. It is alive while the student's
reading of it agrees with what the student's tokens were. The branch that came is followed through the teacher's rows
(chain rule); of the others only one row is known, and where they end what follows is nobody's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ekd.translate.alignment import Span
from ekd.translate.draft import Draft
from ekd.translate.reading import END, LIKELY, MUTE, OPEN, SURE, Reader
from ekd.translate.said import LEAST, UNKNOWN, Said


@dataclass(frozen=True, slots=True)
class Branch:
    mass: float  # of all that is alive
    text: bytes  # from where a student's token begins
    origin: int  # where in `text` the teacher's last word begins
    cuts: tuple[int, ...]  # the student's tokens in `text`
    at: int = 0  # bytes ...
    place: int = 0  # ... and tokens of it that are behind us
    doubted: bool = False  # one of these tokens might be another

    def left(self) -> bytes:
        return self.text[self.at :]

    def fate(self, reader: Reader) -> int:
        if self.place >= len(self.cuts):
            return OPEN if self.text or self.doubted else MUTE
        if self.text.endswith(END):
            return SURE
        return reader.fate(self.left(), self.text[self.origin : self.at], max(0, self.origin - self.at))


def branches(reader: Reader, said: Said, row: int, pending: bytes, path: float) -> list[Branch]:
    """What a row names beside the word that came, behind `pending`, which came before. path: the mass of all."""
    words, mass = said.row(row)
    ends = reader.goes_on(pending) if pending else frozenset()
    texts = [pending + word if word not in (b"", UNKNOWN) else pending for word in words]
    joined = [text for text, word in zip(texts, words, strict=True) if word and word[0] in ends]
    reader.learn([pending, *words] if pending else words)
    reader.learn(joined)
    found = []
    for word, text, m in zip(words[1:], texts[1:], mass[1:], strict=True):
        if word in (b"", UNKNOWN):
            cuts: tuple[int, ...] = ()
        elif not pending or (word != END and word[0] in ends):
            cuts = reader.cut(text)
        else:  # no token of the student's reaches into this word
            cuts = reader.cut(pending) + reader.cut(word)
        found.append(Branch(m * path, text, len(pending), cuts, doubted=word == UNKNOWN))
    return found


@dataclass
class Walk:
    """Through one span, a student's token at a time. Masses are of what is alive; 1 at each token's beginning."""

    reader: Reader
    said: Said
    row: int  # of the teacher
    ahead: bytes  # of what came, from the student's token to the end of the teacher's
    origin: int  # where in `ahead` the teacher's last word begins; below 0: before it
    path: float  # the mass of the branch that came
    alive: list[Branch]
    rest: list[tuple[int, float]]  # by the student's first token
    beside: float  # mass of the first row that nothing names
    unknown: float  # the mass of what may be alive, too, and is not named
    shaky: float = 0.0  # the mass of the branch that came for which the student's tokens might be others
    inside: bool = False  # behind the first token, where `unknown` is beside the 1

    @classmethod
    def begin(cls, reader: Reader, said: Said, row: int) -> Walk:
        alive = branches(reader, said, row, b"", 1.0)
        path, came, rest = float(said.mass[said.starts[row]]), said.came(row), said.rest
        return cls(
            reader, said, row, came, 0, path, alive, rest.row(row), float(rest.tail[row]), float(rest.doubt[row])
        )

    def known(self) -> float:
        """The share of what may be alive that is named."""
        return 1 / (1 + self.unknown) if self.inside else 1.0

    def reach(self, text: bytes) -> float:
        """Follows what came until it covers the student's token; -> the mass on that way that no row names."""
        lost = 0.0
        while len(self.ahead) < len(text):
            self.row += 1
            self.alive += branches(self.reader, self.said, self.row, self.ahead, self.path)
            lost += self.path * float(self.said.tail[self.row])
            self.path *= float(self.said.mass[self.said.starts[self.row]])
            self.origin = len(self.ahead)
            self.ahead += self.said.came(self.row)
        return lost

    def step(self, token: int, text: bytes, last: bool) -> Step:
        """The row of the student's token that came. last: it ends where the teacher's does."""
        shaky = self.shaky + sum(branch.mass for branch in self.alive if branch.doubted and self.inside)
        lost = self.reach(text)
        step = Step({token: self.path}, lost + self.beside, lost + shaky)
        self._share_rest(step, token, text)
        kept, dim = [], 0.0
        for branch in self.alive:
            fate = branch.fate(self.reader)
            if fate >= OPEN or (last and branch.cuts[branch.place] == token):
                step.tail += branch.mass
                step.doubt += branch.mass * (fate != MUTE)
                dim += branch.mass * (fate == OPEN and _agree(branch.left(), text))
                continue
            own = branch.cuts[branch.place]
            step.named[own] = step.named.get(own, 0.0) + branch.mass
            step.doubt += branch.mass * (fate == LIKELY)
            if own == token:
                kept.append(branch if fate == SURE else replace(branch, doubted=True))
            else:
                dim += branch.mass * (fate == LIKELY and _agree(branch.left(), text))
        longer = self.path * self._may_go_on()
        step.doubt = (step.doubt + longer) / max(1 - shaky, LEAST) + self.unknown
        if not last:
            self.shaky = longer / step.named[token]
            self._go_on(kept, step.named[token], len(text), self.unknown + lost + dim)
        return step

    def _share_rest(self, step: Step, token: int, text: bytes) -> None:
        """Words that nobody named one by one; those that begin with what came stay alive, and nobody knows how."""
        for own, mass in self.rest:
            if own == token:
                self.alive.append(Branch(mass, text, 0, (token,)))
            else:
                step.named[own] = mass
        self.rest, self.beside = [], 0.0

    def _may_go_on(self) -> float:
        """How likely the student's token would have reached beyond the teacher's word that came, at most."""
        before = self.said.came(self.row)[: max(0, -self.origin)]
        if self.ahead == END:
            return 0.0
        return self.said.may_go_on(self.row + 1, self.reader.goes_apart(self.ahead, before, max(0, self.origin)))

    def _go_on(self, kept: list[Branch], mass: float, length: int, unknown: float) -> None:
        self.alive = [
            replace(branch, mass=branch.mass / mass, at=branch.at + length, place=branch.place + 1) for branch in kept
        ]
        self.path /= mass
        self.ahead = self.ahead[length:]
        self.origin -= length
        self.unknown = unknown / mass
        self.inside = True


@dataclass
class Step:
    named: dict[int, float]
    tail: float
    doubt: float


def _agree(one: bytes, other: bytes) -> bool:
    """Whether they may be the beginning of the same text."""
    return one.startswith(other) or other.startswith(one)


def walk(draft: Draft, reader: Reader, said: Said, span: Span, words: list[bytes], least: float) -> None:
    """Fills the draft's rows of one span. words: of all student tokens; least: the share that a row has to know."""
    if not said.valid[span.teacher : span.teacher_stop].all():
        return
    one = Walk.begin(reader, said, span.teacher)
    for row in range(span.student, span.student_stop):
        known = one.known()
        step = one.step(int(draft.came[row]), words[row], row == span.student_stop - 1)
        named = np.array(list(step.named.values()))
        draft.add(np.full(len(named), row), np.array(list(step.named)), named)
        draft.tail[row] = step.tail
        draft.doubt[row] = min(1.0, step.doubt)
        draft.valid[row] = known >= least
