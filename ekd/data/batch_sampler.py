"""Which sequences go into a batch: alike in length, within a budget of tokens, in an order that a seed decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice

import numpy as np
from torch.utils.data import Sampler

POOL = 512  # sequences that are sorted by length together: enough for little padding, few enough to stay shuffled


class Batches(Sampler[list[int]]):
    """Batches of like length within a budget of tokens, in a new order each time round; the same for equal seeds.

    Every epoch has as many batches as the first pass over the data, cut from one endless stream of passes: Lightning
    takes the length of an epoch once, and passes differ by a batch or two. It has a few more where that makes whole
    steps of `accumulate` batches, because Lightning steps at an epoch's end however few it has seen. `position`:
    batches of the stream that are done. Rank r of w takes batches r, r + w, ...: what one rank sees in w accumulated
    steps, w ranks see in one; a batch too few for all ranks at the end of a pass is left out. seed None: one pass in
    the given order, all of it on every rank. packing: a batch is one row, so its lengths add up, and they need not be
    alike.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        max_tokens: int,
        packing: bool = False,
        seed: int | None = None,
        accumulate: int = 1,
        position: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if max(lengths) > max_tokens:
            raise ValueError(
                f"a trace has {max(lengths)} tokens and data.max_tokens is {max_tokens}: raise data.max_tokens, or "
                "make shorter traces (prompt.shots, teacher.max_new_tokens)"
            )
        self.lengths, self.max_tokens, self.packing, self.seed = lengths, max_tokens, packing, seed
        self.position, self.rank, self.world = position, rank, world
        first = len(self.plan(0))
        self.size = first if seed is None else -(-first // accumulate) * accumulate
        if not first:
            raise ValueError(
                f"there are fewer batches than the {world} ranks: lower data.max_tokens, or trace more problems"
            )

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[list[int]]:
        start = self.position if self.seed is not None else 0
        self.position = (start // self.size + 1) * self.size
        yield from islice(self.stream(start), self.position - start)

    def stream(self, start: int) -> Iterator[list[int]]:
        """The endless stream from a position on."""
        for number in count():
            batches = self.plan(number)
            yield from batches[start:]
            start = max(0, start - len(batches))

    def plan(self, number: int) -> list[list[int]]:
        """This rank's batches of one pass over the data."""
        if self.seed is None:
            return (fill if self.packing else pack)(range(len(self.lengths)), self.lengths, self.max_tokens)
        random = np.random.default_rng([self.seed, number])
        order = random.permutation(len(self.lengths)).tolist()
        batches = []
        for first in range(0, len(order), POOL):
            pool = order[first : first + POOL]
            if self.packing:
                batches += fill(pool, self.lengths, self.max_tokens)
            else:
                batches += pack(sorted(pool, key=lambda i: self.lengths[i]), self.lengths, self.max_tokens)
        batches = [batches[i] for i in random.permutation(len(batches))]
        return batches[: len(batches) // self.world * self.world][self.rank :: self.world]


def pack(order: Sequence[int], lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Cut an order into batches whose rows, padded to their longest, fit the budget."""
    batches: list[list[int]] = []
    longest = 0
    for index in order:
        longest = max(longest, lengths[index])
        if not batches or longest * (len(batches[-1]) + 1) > max_tokens:
            batches.append([])
            longest = lengths[index]
        batches[-1].append(index)
    return batches


def fill(order: Sequence[int], lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Each sequence into the first row that has room for it."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index in order:
        place = next((i for i, free in enumerate(room) if free >= lengths[index]), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(max_tokens)
        rows[place].append(index)
        room[place] -= lengths[index]
    return rows
