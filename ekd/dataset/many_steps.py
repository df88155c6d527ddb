"""Word problems of two and three steps."""

from __future__ import annotations

from random import Random

from ekd.dataset.wording import NAMES, THINGS, ProblemDraft, amount, draft, factor, share_of_level, small_number


def two_step(rng: Random, level: int) -> ProblemDraft:
    a, b = amount(rng, level), amount(rng, level)
    c = rng.randint(2, a + b - 1)
    (who, other), thing = rng.sample(NAMES, 2), rng.choice(THINGS)
    left = a + b - c
    steps = f"{a} + {b} = {a + b}.\nThen take away {c}: {a + b} - {c} = {left}."
    return draft(
        rng,
        (a, b, c),
        left,
        (
            f"{who} has {a} {thing}, buys {b} more and then gives {c} to {other}. "
            f"How many {thing} does {who} have now?",
            f"First add what {who} buys: {steps}\nSo {who} has {left} {thing} now.",
        ),
        (
            f"A shop had {a} {thing} in the morning. At noon {b} more were delivered, and by the evening {c} were "
            f"sold. How many {thing} did the shop have in the evening?",
            f"First add the delivery: {steps}\nSo the shop had {left} {thing} in the evening.",
        ),
    )


def comparison(rng: Random, level: int) -> ProblemDraft:
    a, k = amount(rng, level), rng.randint(2, 5)
    (who, other), thing = rng.sample(NAMES, 2), rng.choice(THINGS)
    times = "twice" if k == 2 else f"{k} times"
    return draft(
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


def half(rng: Random, level: int) -> ProblemDraft:
    b = amount(rng, level)
    a, who, thing = 2 * b, rng.choice(NAMES), rng.choice(THINGS)
    return draft(
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


def change(rng: Random, level: int) -> ProblemDraft:
    price, n = factor(rng, level), small_number(rng)
    cost = price * n
    paid = (cost // 10 + rng.randint(1, 2)) * 10
    who, thing = rng.choice(NAMES), rng.choice(["notebooks", "pens", "mugs", "candles", "plants", "maps"])
    return draft(
        rng,
        (price, n, paid),
        paid - cost,
        (
            f"{who} buys {n} {thing} at ${price} each and pays with ${paid}. How many dollars does {who} get back?",
            f"The {thing} cost {n} * {price} = {cost} dollars.\n"
            f"{who} gets back {paid} - {cost} = {paid - cost} dollars.",
        ),
    )


def discount(rng: Random, level: int) -> ProblemDraft:
    price, p = factor(rng, level) * 20, share_of_level(rng, level)
    part, item = price * p // 100, rng.choice(["coat", "lamp", "bicycle", "camera", "table", "tent"])
    return draft(
        rng,
        (price, p),
        price - part,
        (
            f"A {item} costs ${price}. In a sale it is {p}% cheaper. How many dollars does it cost in the sale?",
            f"{p}% of {price} is {price} * {p} / 100 = {part}, so the price falls by ${part}.\n"
            f"In the sale it costs {price} - {part} = {price - part} dollars.",
        ),
    )


def wages(rng: Random, level: int) -> ProblemDraft:
    pay, hours, days = factor(rng, level) + 5, small_number(rng), rng.randint(2, 6)
    day, who = pay * hours, rng.choice(NAMES)
    return draft(
        rng,
        (pay, hours, days),
        day * days,
        (
            f"{who} earns ${pay} an hour and works {hours} hours a day. "
            f"How many dollars does {who} earn in {days} days?",
            f"In one day {who} earns {pay} * {hours} = {day} dollars.\n"
            f"In {days} days that is {day} * {days} = {day * days} dollars.",
        ),
    )


def average(rng: Random, level: int) -> ProblemDraft:
    mean = amount(rng, level) + 3
    a, b = mean + rng.randint(-3, 3), mean + rng.randint(-3, 3)
    c, who = 3 * mean - a - b, rng.choice(NAMES)
    return draft(
        rng,
        (a, b, c),
        mean,
        (
            f"{who} scored {a}, {b} and {c} points in three games. How many points did {who} score on average?",
            f"Add the points: {a} + {b} + {c} = {3 * mean}.\n"
            f"Divide by the 3 games: {3 * mean} / 3 = {mean}, so the average is {mean} points.",
        ),
    )


def packing(rng: Random, level: int) -> ProblemDraft:
    trays, each, size = small_number(rng), factor(rng, level) + 4, small_number(rng)
    made = trays * each
    boxes = rng.randint(1, (made - 2) // size)
    kept = boxes * size
    sold = made - kept
    return draft(
        rng,
        (trays, each, sold, size),
        boxes,
        (
            f"A bakery bakes {trays} trays of {each} rolls. It sells {sold} rolls and packs the rest into boxes "
            f"of {size}. How many boxes does it fill?",
            f"The bakery bakes {trays} * {each} = {made} rolls.\n"
            f"After the sale {made} - {sold} = {kept} rolls are left.\n"
            f"They fill {kept} / {size} = {boxes} boxes.",
        ),
    )
