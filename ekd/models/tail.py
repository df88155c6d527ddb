"""The tail of a teacher row: all that the row does not name. Empty only where nothing is left to name."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from torch import Tensor

LEAST = 1e-7  # a mass that float32 logprobs cannot tell from none
LOG_LEAST = math.log(LEAST)

Array = TypeVar("Array", np.ndarray, Tensor)


def floored(log_tail: Array, named: Array, vocab: int) -> Array:
    """log_tail (R,) ln of a mass, named (R,) how many of the V ids each row names -> log_tail, fit to be divided by.

    A softmax gives every id something. So a row that leaves ids out has a tail: where the sum of what it names reaches
    1 the tail is not nothing but too small to be seen, and nothing would make KL(q, p) infinite wherever the teacher is
    sure; it is LEAST. A row that names all V ids has none, whatever rounding left: its tail is -inf, which is an empty
    category in the student as well. Not for rows of draws, which say 0 of an id never drawn, and mean it.
    """
    raised = log_tail.clip(min=LOG_LEAST)
    raised[named >= vocab] = -math.inf
    return raised


def entropy_between(known: np.ndarray, log_tail: np.ndarray, named: np.ndarray, vocab: int) -> np.ndarray:
    """(R,) nats: the midpoint of what an entropy can be where only some of V ids are named. known: -sum p ln p of them.

    At the least -tail ln tail is added to it (the tail is one id), at the most tail ln(V - k) more (it is flat).
    """
    tail = np.exp(log_tail)
    unnamed = np.maximum(vocab - named, 1)
    middle: np.ndarray = known - tail * np.where(tail > 0, log_tail, 0.0) + tail * np.log(unnamed) / 2
    return middle
