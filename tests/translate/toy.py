"""A world small enough to know: bytes from a Markov chain, tokenizers that take the longest token, and the truth.

The truth is summed over every continuation, from the definitions alone; nothing of ekd.translate is used for it but the
tables of tokens.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np

from ekd.translate.spelling import Spelling
from ekd.types import Trace

ALPHABET = b"ab1"


class World(NamedTuple):
    chain: dict[bytes, np.ndarray]  # the last two bytes -> how likely each byte of ALPHABET comes next

    def mass(self, behind: bytes, ahead: bytes) -> float:
        p, text = 1.0, behind
        for byte in ahead:
            p *= self.chain[text[-2:]][ALPHABET.index(byte)]
            text += bytes([byte])
        return p

    def write(self, length: int, random: np.random.Generator) -> bytes:
        text = b""
        while len(text) < length:
            text += bytes([random.choice(list(ALPHABET), p=self.chain[text[-2:]])])
        return text


def world(random: np.random.Generator) -> World:
    tails = [bytes(t) for n in range(3) for t in product(ALPHABET, repeat=n)]
    return World({tail: random.dirichlet(np.full(len(ALPHABET), 0.5)) for tail in tails})


def vocabularies(random: np.random.Generator) -> list[Spelling]:
    """Two: every byte, longer tokens, and an end token, which has no bytes. Every other time the second has no token
    that the first has not, so that nothing is left to guess; else most of both are the same."""
    longer = [bytes(t) for n in (2, 3) for t in product(ALPHABET, repeat=n)]
    common, made = random.permutation(len(longer))[: random.integers(0, 13)], []
    subset = random.random() < 0.5
    for place in range(2):
        own = set(common[random.random(len(common)) < 0.85].tolist()) if place or not subset else set(common.tolist())
        own |= set() if subset else set(random.permutation(len(longer))[:2].tolist())
        texts = [bytes([b]) for b in ALPHABET] + [longer[i] for i in random.permutation(sorted(own))]
        made.append(Spelling([*texts, b""], len(texts)))
    return made


@lru_cache(maxsize=200_000)
def greedy(text: bytes, spelling: Spelling) -> list[bytes]:
    found, tokens = [], {t for t in spelling.texts if t}
    while text:
        found.append(max((t for t in tokens if text.startswith(t)), key=len))
        text = text[len(found[-1]) :]
    return found


def longest(spelling: Spelling) -> int:
    return max(map(len, spelling.texts))


def futures(length: int) -> list[bytes]:
    return [bytes(t) for t in product(ALPHABET, repeat=length)]


class Toy(NamedTuple):
    text: bytes
    ids: list[int]  # the teacher's reading
    rows: list[dict[int, float]]  # p of each of its ids


def common(one: list[bytes], other: list[bytes]) -> list[int]:
    """Bytes at which both readings have an end, 0 among them."""
    return sorted(set(np.cumsum([0, *map(len, one)]).tolist()) & set(np.cumsum([0, *map(len, other)]).tolist()))


def told(world: World, text: bytes, teacher: Spelling, student: Spelling, most: int) -> Toy:
    """What a perfect teacher says at each token: p(token | the tokens before), the text going on without end.

    The text is kept up to the last common end within `most` bytes, so that both readings of it are those of the whole.
    """
    tokens, reach, rows = greedy(text, teacher), 2 * longest(teacher) - 1, []
    text = text[: max(end for end in common(tokens, greedy(text, student)) if end <= most)]
    tokens = tokens[: next(n for n in range(len(tokens) + 1) if len(b"".join(tokens[:n])) == len(text))]
    for n in range(len(tokens)):
        behind, row = b"".join(tokens[:n]), dict[int, float]()
        for future in futures(reach):
            read = greedy(behind + future, teacher)
            if read[:n] == tokens[:n]:
                i = teacher.texts.index(read[n])
                row[i] = row.get(i, 0.0) + world.mass(behind, future)
        total = sum(row.values())
        rows.append({i: m / total for i, m in row.items()})
    return Toy(text, [teacher.texts.index(t) for t in tokens], rows)


def truth(
    world: World, toy: Toy, teacher: Spelling, student: Spelling, begin: int, heads: list[bytes], start: int
) -> dict[int, float]:
    """p of the student's token behind the tokens `heads`, which begin at byte `begin`, as the teacher's token `start`
    does, over all that the teacher may have said from there.
    """
    tokens = [teacher.texts[i] for i in toy.ids][:start]
    row, behind = dict[int, float](), toy.text[:begin]
    for future in futures(max(2 * longest(teacher) - 1, len(b"".join(heads)) + 2 * longest(student))):
        own = greedy(future, student)
        if own[: len(heads)] == heads and greedy(behind + future, teacher)[:start] == tokens:
            i = student.texts.index(own[len(heads)])
            row[i] = row.get(i, 0.0) + world.mass(behind, future)
    total = sum(row.values())
    return {i: m / total for i, m in row.items()}


def whole_rows(toy: Toy, vocab: int) -> np.ndarray:
    """(n, V) log p."""
    p = np.zeros((len(toy.rows), vocab))
    for n, row in enumerate(toy.rows):
        p[n, list(row)] = list(row.values())
    with np.errstate(divide="ignore"):
        return np.log(p).astype(np.float32)


def trace_of(toy: Toy, top: int | None = None) -> Trace:
    """top: how many others a row names; None: all."""
    ids, logs, counts, tails = [], [], [], []
    for came, row in zip(toy.ids, toy.rows, strict=True):
        others = sorted((i for i in row if i != came and row[i] > 0), key=lambda i: -row[i])[:top]
        ids += [came, *others]
        logs += [np.log(row[i]) for i in (came, *others)]
        counts.append(1 + len(others))
        rest = 1 - sum(row[i] for i in (came, *others))
        tails.append(np.log(rest) if rest > 1e-12 else -np.inf)
    n = len(toy.ids)
    return Trace(
        key="0", problem_id="toy", sample=0, finish="length", prompt_ids=np.zeros(1, np.int32),
        response_ids=np.array(toy.ids, np.int32), counts=np.array(counts, np.int32), ids=np.array(ids, np.int32),
        logprobs=np.array(logs, np.float32), log_tail=np.array(tails, np.float32), entropy=np.zeros(n, np.float32),
        exact=True, valid=np.ones(n, bool), log_norm=np.zeros((n, 0), np.float32),
    )  # fmt: skip


def row_of(trace: Trace, row: int) -> dict[int, float]:
    start = int(trace.counts[:row].sum())
    part = slice(start, start + int(trace.counts[row]))
    return dict(zip(trace.ids[part].tolist(), np.exp(trace.logprobs[part].astype(np.float64)).tolist(), strict=True))
