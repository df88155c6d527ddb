"""The kinds of word problem that `arithmetic` poses: each a draw of numbers, some wordings, and the worked steps."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

LEVELS = (1, 2, 3)
_FACTOR = {1: (2, 9), 2: (4, 20), 3: (12, 60)}  # what is multiplied or shared
_AMOUNT = {1: (3, 20), 2: (15, 99), 3: (120, 950)}  # what is counted, added and taken away
_NAMES = (
    "Anna Ben Clara David Emma Felix Grace Henry Ivy Jack Kate Leo Maria Noah Olivia Paul Rosa Sam Tina Victor".split()
)
_THINGS = "apples marbles stickers pencils books coins shells cards cookies beads balloons buttons".split()
_BOXES = "boxes bags packs baskets".split()
_SHOPS = "shop stall kiosk school".split()


class Draft(NamedTuple):
    numbers: tuple[int, ...]  # what decides the sum; two drafts of one kind with the same numbers are the same problem
    question: str
    steps: str  # ends with the sentence that answers the question
    answer: int


def _amount(rng: Random, level: int) -> int:
    return rng.randint(*_AMOUNT[level])


def _factor(rng: Random, level: int) -> int:
    return rng.randint(*_FACTOR[level])


def _small(rng: Random) -> int:
    return rng.randint(2, 9)


def _share(rng: Random, level: int) -> int:
    """Percent; every one of them leaves a whole number of a multiple of 20."""
    return rng.choice([10, 20, 25, 50] if level == 1 else [5, 10, 15, 20, 25, 30, 40, 60, 75])


def _draft(rng: Random, numbers: tuple[int, ...], answer: int, *wordings: tuple[str, str]) -> Draft:
    return Draft(numbers, *rng.choice(wordings), answer)


def addition(rng: Random, level: int) -> Draft:
    a, b = _amount(rng, level), _amount(rng, level)
    (who, other), thing, shop = rng.sample(_NAMES, 2), rng.choice(_THINGS), rng.choice(_SHOPS)
    total = f"{a} + {b} = {a + b}"
    return _draft(
        rng,
        (a, b),
        a + b,
        (
            f"{who} has {a} {thing}. {other} gives {who} {b} more {thing}. How many {thing} does {who} have now?",
            f"{who} starts with {a} {thing} and gets {b} more.\n{total}, so {who} now has {a + b} {thing}.",
        ),
        (
            f"There are {a} red {thing} and {b} blue {thing} in a box. How many {thing} are in the box?",
            f"Add the red and the blue {thing}.\n{total}, so there are {a + b} {thing} in the box.",
        ),
        (
            f"A {shop} sold {a} {thing} on Monday and {b} {thing} on Tuesday. How many {thing} did it sell on both days?",
            f"Add what was sold on the two days.\n{total}, so it sold {a + b} {thing}.",
        ),
    )


def subtraction(rng: Random, level: int) -> Draft:
    left, b = _amount(rng, level), _amount(rng, level)
    a = left + b
    (who, other), thing = rng.sample(_NAMES, 2), rng.choice(_THINGS)
    rest = f"{a} - {b} = {left}"
    return _draft(
        rng,
        (a, b),
        left,
        (
            f"{who} had {a} {thing} and gave {b} of them to {other}. How many {thing} does {who} have left?",
            f"{who} gave away {b} of the {a} {thing}.\n{rest}, so {who} has {left} {thing} left.",
        ),
        (
            f"A train carries {a} people. At the next station {b} people get off and nobody gets on. "
            "How many people are still on the train?",
            f"Take the {b} people who got off from the {a} on the train.\n{rest}, so {left} people are still on it.",
        ),
        (
            f"{who} is reading a book of {a} pages. So far {who} has read {b} pages. How many pages are left to read?",
            f"Subtract the pages already read from all the pages.\n{rest}, so {left} pages are left.",
        ),
    )


def multiplication(rng: Random, level: int) -> Draft:
    a, b = _factor(rng, level), _small(rng)
    who, thing, box = rng.choice(_NAMES), rng.choice(_THINGS), rng.choice(_BOXES)
    product = f"{b} * {a} = {a * b}"
    return _draft(
        rng,
        (a, b),
        a * b,
        (
            f"{who} buys {b} {box} of {thing}. Each of the {box} holds {a} {thing}. How many {thing} does {who} buy?",
            f"There are {b} {box} with {a} {thing} each.\n{product}, so {who} buys {a * b} {thing}.",
        ),
        (
            f"A hall has {b} rows of chairs with {a} chairs in each row. How many chairs does the hall have?",
            f"Multiply the rows by the chairs in a row.\n{product}, so the hall has {a * b} chairs.",
        ),
        (
            f"A ticket costs ${a}. {who} buys {b} tickets. How many dollars does {who} pay?",
            f"{b} tickets cost ${a} each.\n{product}, so {who} pays ${a * b}.",
        ),
    )


def division(rng: Random, level: int) -> Draft:
    each, b = _factor(rng, level), _small(rng)
    a = each * b
    who, thing = rng.choice(_NAMES), rng.choice(_THINGS)
    share = f"{a} / {b} = {each}"
    return _draft(
        rng,
        (a, b),
        each,
        (
            f"{who} has {a} {thing} and shares them equally among {b} friends. How many {thing} does each friend get?",
            f"Divide the {a} {thing} among {b} friends.\n{share}, so each friend gets {each} {thing}.",
        ),
        (
            f"{who} packs {a} {thing} into bags of {b}. How many bags does {who} fill?",
            f"Each bag takes {b} of the {a} {thing}.\n{share}, so {who} fills {each} bags.",
        ),
    )


def two_step(rng: Random, level: int) -> Draft:
    a, b = _amount(rng, level), _amount(rng, level)
    c = rng.randint(2, a + b - 1)
    (who, other), thing = rng.sample(_NAMES, 2), rng.choice(_THINGS)
    left = a + b - c
    steps = f"{a} + {b} = {a + b}.\nThen take away {c}: {a + b} - {c} = {left}."
    return _draft(
        rng,
        (a, b, c),
        left,
        (
            f"{who} has {a} {thing}, buys {b} more and then gives {c} to {other}. How many {thing} does {who} have now?",
            f"First add what {who} buys: {steps}\nSo {who} has {left} {thing} now.",
        ),
        (
            f"A shop had {a} {thing} in the morning. At noon {b} more were delivered, and by the evening {c} were sold. "
            f"How many {thing} did the shop have in the evening?",
            f"First add the delivery: {steps}\nSo the shop had {left} {thing} in the evening.",
        ),
    )


def comparison(rng: Random, level: int) -> Draft:
    a, k = _amount(rng, level), rng.randint(2, 5)
    (who, other), thing = rng.sample(_NAMES, 2), rng.choice(_THINGS)
    times = "twice" if k == 2 else f"{k} times"
    return _draft(
        rng,
        (a, k),
        a + k * a,
        (
            f"{who} has {a} {thing}. {other} has {times} as many. How many {thing} do they have together?",
            f"{other} has {k} * {a} = {k * a} {thing}.\nTogether they have {a} + {k * a} = {a + k * a} {thing}.",
        ),
        (
            f"{who} collected {a} {thing} and {other} collected {times} as many. "
            f"How many {thing} did the two collect in total?",
            f"{other} collected {k} * {a} = {k * a} {thing}.\nIn total that is {a} + {k * a} = {a + k * a} {thing}.",
        ),
    )


def half(rng: Random, level: int) -> Draft:
    b = _amount(rng, level)
    a, who, thing = 2 * b, rng.choice(_NAMES), rng.choice(_THINGS)
    return _draft(
        rng,
        (a,),
        a + b,
        (
            f"{who} sold {a} {thing} in April and half as many in May. How many {thing} did {who} sell in both months?",
            f"In May {who} sold {a} / 2 = {b} {thing}.\nIn both months {who} sold {a} + {b} = {a + b} {thing}.",
        ),
        (
            f"{who} picked {a} {thing} before lunch and half that many after lunch. How many {thing} is that in total?",
            f"After lunch {who} picked {a} / 2 = {b} {thing}.\nIn total that is {a} + {b} = {a + b} {thing}.",
        ),
    )


def change(rng: Random, level: int) -> Draft:
    price, n = _factor(rng, level), _small(rng)
    cost = price * n
    paid = (cost // 10 + rng.randint(1, 2)) * 10
    who, thing = rng.choice(_NAMES), rng.choice("notebooks pens mugs candles plants maps".split())
    return _draft(
        rng,
        (price, n, paid),
        paid - cost,
        (
            f"{who} buys {n} {thing} at ${price} each and pays with ${paid}. How many dollars does {who} get back?",
            f"The {thing} cost {n} * {price} = {cost} dollars.\n{who} gets back {paid} - {cost} = {paid - cost} dollars.",
        ),
    )


def percent(rng: Random, level: int) -> Draft:
    whole, share = _factor(rng, level) * 20, _share(rng, level)
    part, who, thing = whole * share // 100, rng.choice(_NAMES), rng.choice(_THINGS)
    found = f"{share}% of {whole} is {whole} * {share} / 100 = {part}"
    return _draft(
        rng,
        (whole, share),
        part,
        (
            f"{share}% of the {whole} children at {who}'s school walk to school. How many children is that?",
            f"{found}.\nSo {part} children walk to school.",
        ),
        (
            f"{who} has {whole} {thing}, and {share}% of them are green. How many green {thing} does {who} have?",
            f"{found}.\nSo {who} has {part} green {thing}.",
        ),
    )


def discount(rng: Random, level: int) -> Draft:
    price, share = _factor(rng, level) * 20, _share(rng, level)
    part, item = price * share // 100, rng.choice("coat lamp bicycle camera table tent".split())
    return _draft(
        rng,
        (price, share),
        price - part,
        (
            f"A {item} costs ${price}. In a sale it is {share}% cheaper. How many dollars does it cost in the sale?",
            f"{share}% of {price} is {price} * {share} / 100 = {part}, so the price falls by ${part}.\n"
            f"In the sale it costs {price} - {part} = {price - part} dollars.",
        ),
    )


def distance(rng: Random, level: int) -> Draft:
    speed, hours = _factor(rng, level) + 10, rng.randint(2, 4 + 3 * level)
    way, what = speed * hours, rng.choice("boat bus train ship".split())
    return _draft(
        rng,
        (speed, hours),
        way,
        (
            f"A {what} travels {speed} kilometers every hour. How many kilometers does it travel in {hours} hours?",
            f"Multiply the speed by the time.\n{speed} * {hours} = {way}, so it travels {way} kilometers.",
        ),
    )


def duration(rng: Random, level: int) -> Draft:
    speed, minutes = _factor(rng, level) + 3, rng.randint(2, 4 + 3 * level)
    pages, who = speed * minutes, rng.choice(_NAMES)
    return _draft(
        rng,
        (speed, minutes),
        minutes,
        (
            f"A printer prints {speed} pages a minute. How many minutes does {who} wait for {pages} pages?",
            f"Divide the pages by the pages of one minute.\n"
            f"{pages} / {speed} = {minutes}, so {who} waits {minutes} minutes.",
        ),
    )


def wages(rng: Random, level: int) -> Draft:
    pay, hours, days = _factor(rng, level) + 5, _small(rng), rng.randint(2, 6)
    day, who = pay * hours, rng.choice(_NAMES)
    return _draft(
        rng,
        (pay, hours, days),
        day * days,
        (
            f"{who} earns ${pay} an hour and works {hours} hours a day. How many dollars does {who} earn in {days} days?",
            f"In one day {who} earns {pay} * {hours} = {day} dollars.\n"
            f"In {days} days that is {day} * {days} = {day * days} dollars.",
        ),
    )


def average(rng: Random, level: int) -> Draft:
    mean = _amount(rng, level) + 3
    a, b = mean + rng.randint(-3, 3), mean + rng.randint(-3, 3)
    c, who = 3 * mean - a - b, rng.choice(_NAMES)
    return _draft(
        rng,
        (a, b, c),
        mean,
        (
            f"{who} scored {a}, {b} and {c} points in three games. How many points did {who} score on average?",
            f"Add the points: {a} + {b} + {c} = {3 * mean}.\n"
            f"Divide by the 3 games: {3 * mean} / 3 = {mean}, so the average is {mean} points.",
        ),
    )


def packing(rng: Random, level: int) -> Draft:
    trays, each, size = _small(rng), _factor(rng, level) + 4, _small(rng)
    made = trays * each
    boxes = rng.randint(1, (made - 2) // size)
    kept = boxes * size
    sold = made - kept
    return _draft(
        rng,
        (trays, each, sold, size),
        boxes,
        (
            f"A bakery bakes {trays} trays of {each} rolls. It sells {sold} rolls and packs the rest into boxes of {size}. "
            "How many boxes does it fill?",
            f"The bakery bakes {trays} * {each} = {made} rolls.\nAfter the sale {made} - {sold} = {kept} rolls are left.\n"
            f"They fill {kept} / {size} = {boxes} boxes.",
        ),
    )


_ALL = (
    (addition, subtraction, multiplication, division, two_step, comparison, half, change)
    + (percent, discount, distance, duration, wages, average, packing)
)  # fmt: skip
KINDS: dict[str, Callable[[Random, int], Draft]] = {kind.__name__: kind for kind in _ALL}
