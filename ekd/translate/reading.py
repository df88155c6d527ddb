"""How a student reads a teacher's words: where its first token ends, and whether what follows could move that end."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cached_property

from ekd.translate.spelling import Spelling

END = b"\xff\xff"  # the word that ends a turn; no token has these bytes

# What is known of the student's first token in some bytes, when the teacher's word ends with them.
SURE = 0  # it is this one, whatever follows
LIKELY = 1  # this one, but for longer tokens that the teacher would have to write in several
OPEN = 2  # the student goes on from here only in ways that are several words of the teacher's: nobody knows
MUTE = 3  # no text at all, so no token of the student's


class Reader:
    """teacher: taken to write as its tokenizer does. Of a server that speaks text it is not known: then `known` are the
    words that it was seen to say, and it is taken never to write in several words what is one of them.
    """

    def __init__(self, student: Spelling, teacher: Spelling | None, known: Collection[bytes] = ()) -> None:
        self.student, self.teacher = student, teacher
        self.known = known if teacher is None else teacher.known
        self.cuts: dict[bytes, tuple[int, ...]] = {END: (student.end,), b"": ()}
        self.fates: dict[tuple[bytes, bytes, int], int] = {}
        self.next_bytes: dict[tuple[bytes, bytes, int], frozenset[int]] = {}

    def learn(self, words: Iterable[bytes]) -> None:
        """Cuts many words at once, which is quicker than one by one."""
        fresh = [word for word in dict.fromkeys(words) if word not in self.cuts]
        self.cuts.update(zip(fresh, self.student.cut(fresh), strict=True))

    def cut(self, word: bytes) -> tuple[int, ...]:
        if word not in self.cuts:
            self.learn([word])
        return self.cuts[word]

    def fate(self, text: bytes, before: bytes = b"", pending: int = 0) -> int:
        """Of `text`, which begins where a student's token does and ends where a word of the teacher's does.

        before: what that word has left behind, if the text begins inside it; pending: bytes of the text before it.
        """
        key = text, before, pending
        if (found := self.fates.get(key)) is None:
            found = self.fates[key] = self._fate(*key)
        return found

    def goes_on(self, text: bytes) -> frozenset[int]:
        """The bytes with which longer tokens of the student's go on."""
        if (found := self.next_bytes.get((text, b"", -1))) is None:
            longer = self.student.trie.sorted[slice(*self.student.trie.beyond(text))]
            found = self.next_bytes[text, b"", -1] = frozenset(word[len(text)] for word in longer)
        return found

    def goes_apart(self, text: bytes, before: bytes = b"", pending: int = 0) -> frozenset[int]:
        """The same of those alone that the teacher writes in several words; arguments as in `fate`."""
        if (found := self.next_bytes.get(key := (text, before, pending))) is None:
            longer, _ = self._apart(text, before, pending)
            found = self.next_bytes[key] = frozenset(word[len(text)] for word in longer)
        return found

    @cached_property
    def split(self) -> dict[bytes, list[bytes]]:
        """The student's tokens that are several of the teacher's words, by the first of these."""
        several = [token for token in self.student.trie.sorted if token not in self.known]
        found: dict[bytes, list[bytes]] = {}
        if self.teacher is not None:
            for token, ids in zip(several, self.teacher.cut(several), strict=True):
                if ids:
                    found.setdefault(self.teacher.texts[ids[0]], []).append(token)
        return found

    def _apart(self, text: bytes, before: bytes, pending: int) -> tuple[list[bytes], int]:
        """The student's tokens that go on from `text` where the teacher's word ends; and how many do elsewhere."""
        first, last = self.student.trie.beyond(text)
        if self.teacher is not None and not before and not pending:
            found = self.split.get(text, [])
        else:
            longer = self.student.trie.sorted[first:last]
            found = [token for token in longer if (before + token)[pending:] not in self.known]
        return found, last - first - len(found)

    def _fate(self, text: bytes, before: bytes, pending: int) -> int:
        if text == END:
            return SURE
        if not text:
            return MUTE
        if not self.cut(text):
            return OPEN
        apart, others = self._apart(text, before, pending)
        if not apart:
            return SURE
        return LIKELY if others else OPEN
