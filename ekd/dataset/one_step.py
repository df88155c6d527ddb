"""Word problems of one step."""

from __future__ import annotations

from random import Random

from ekd.dataset.wording import NAMES, THINGS, ProblemDraft, amount, draft, factor, share_of_level, small_number


def addition(rng: Random, level: int) -> ProblemDraft:
    a, b = amount(rng, level), amount(rng, level)
    (who, other), thing, shop = rng.sample(NAMES, 2), rng.choice(THINGS), rng.choice(["shop", "stall", "kiosk"])
    total = f"{a} + {b} = {a + b}"
    return draft(
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
            f"A {shop} sold {a} {thing} on Monday and {b} {thing} on Tuesday. "
            f"How many {thing} did it sell on both days?",
            f"Add what was sold on the two days.\n{total}, so it sold {a + b} {thing}.",
        ),
    )


def subtraction(rng: Random, level: int) -> ProblemDraft:
    left, b = amount(rng, level), amount(rng, level)
    a = left + b
    (who, other), thing = rng.sample(NAMES, 2), rng.choice(THINGS)
    rest = f"{a} - {b} = {left}"
    return draft(
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


def multiplication(rng: Random, level: int) -> ProblemDraft:
    a, b = factor(rng, level), small_number(rng)
    who, thing, box = rng.choice(NAMES), rng.choice(THINGS), rng.choice(["boxes", "bags", "packs", "baskets"])
    product = f"{b} * {a} = {a * b}"
    return draft(
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


def division(rng: Random, level: int) -> ProblemDraft:
    each, b = factor(rng, level), small_number(rng)
    a = each * b
    who, thing = rng.choice(NAMES), rng.choice(THINGS)
    quotient = f"{a} / {b} = {each}"
    return draft(
        rng,
        (a, b),
        each,
        (
            f"{who} has {a} {thing} and shares them equally among {b} friends. How many {thing} does each friend get?",
            f"Divide the {a} {thing} among {b} friends.\n{quotient}, so each friend gets {each} {thing}.",
        ),
        (
            f"{who} packs {a} {thing} into bags of {b}. How many bags does {who} fill?",
            f"Each bag takes {b} of the {a} {thing}.\n{quotient}, so {who} fills {each} bags.",
        ),
    )


def percent(rng: Random, level: int) -> ProblemDraft:
    whole, p = factor(rng, level) * 20, share_of_level(rng, level)
    part, who, thing = whole * p // 100, rng.choice(NAMES), rng.choice(THINGS)
    found = f"{p}% of {whole} is {whole} * {p} / 100 = {part}"
    return draft(
        rng,
        (whole, p),
        part,
        (
            f"{p}% of the {whole} children at {who}'s school walk to school. How many children is that?",
            f"{found}.\nSo {part} children walk to school.",
        ),
        (
            f"{who} has {whole} {thing}, and {p}% of them are green. How many green {thing} does {who} have?",
            f"{found}.\nSo {who} has {part} green {thing}.",
        ),
    )


def distance(rng: Random, level: int) -> ProblemDraft:
    speed, hours = factor(rng, level) + 10, rng.randint(2, 4 + 3 * level)
    way, what = speed * hours, rng.choice(["boat", "bus", "train", "ship"])
    return draft(
        rng,
        (speed, hours),
        way,
        (
            f"A {what} travels {speed} kilometers every hour. How many kilometers does it travel in {hours} hours?",
            f"Multiply the speed by the time.\n{speed} * {hours} = {way}, so it travels {way} kilometers.",
        ),
    )


def duration(rng: Random, level: int) -> ProblemDraft:
    speed, minutes = factor(rng, level) + 3, rng.randint(2, 4 + 3 * level)
    pages, who = speed * minutes, rng.choice(NAMES)
    return draft(
        rng,
        (speed, minutes),
        minutes,
        (
            f"A printer prints {speed} pages a minute. How many minutes does {who} wait for {pages} pages?",
            f"Divide the pages by the pages of one minute.\n"
            f"{pages} / {speed} = {minutes}, so {who} waits {minutes} minutes.",
        ),
    )
