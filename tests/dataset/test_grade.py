r"""Reading and comparing answers: a fixed table of hard cases, bombs, threads, and the benchmarks' own references."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ekd.dataset.cleaning import STEPS, clean
from ekd.dataset.grading import extract, grade, same
from ekd.dataset.symbolic import Child

SHARED = Path(__file__).parents[3] / "shared" / "data"
# One case a line: kind, answer (the reference), response, and the verdict that a reader would give.
CASES = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "fixtures" / "grading.jsonl").read_text(encoding="utf-8").splitlines()
]

# reference, what the box holds
CORRECT = [
    # numbers
    ("72", "72"),
    ("72", "72.0"),
    ("72", " 72 "),
    ("72", "72."),
    ("72", "$72$"),
    ("007", "7"),
    ("0", "-0"),
    ("-5", "−5"),
    ("5", "+5"),
    (".35625", "0.35625"),
    (".0000672", r"6.72 \times 10^{-5}"),
    ("3.14", r"\approx 3.14"),
    ("2000000", "2 million"),
    # fractions and mixed numbers
    ("0.5", r"\frac{1}{2}"),
    (r"\frac12", r"\dfrac{1}{2}"),
    ("1/2", "0.5"),
    ("1/3", "0.333333"),
    (r"\frac{2}{4}", r"\frac{1}{2}"),
    (r"-\frac{3}{8}", r"\frac{-3}{8}"),
    (r"1\frac{4}{5}", "1.8"),
    (r"1\frac{4}{5}", r"\frac{9}{5}"),
    (r"137 \frac{1}{2}", "137.5"),
    ("1 1/2", "1.5"),
    (r"-1\frac12", "-1.5"),
    (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
    # percent
    ("20", r"20\%"),
    (r"20\%", "20"),
    ("20%", "0.2"),
    ("0.2", r"20\%"),
    ("20", "20 percent"),
    # thousands separators
    ("1234", "1,234"),
    ("1,234", "1234"),
    (r"10,\!080", "10080"),
    (r"11,\! 111,\! 111,\! 100", "11111111100"),
    ("58,500", r"58{,}500"),
    ("1000000", "1,000,000"),
    # units, currency, degrees
    (r"15\mbox{ cm}^2", "15"),
    ("15", r"15\text{ cm}^2"),
    ("15", "15 square centimeters"),
    (r"5.4 \text{ cents}", "5.4"),
    (r"90^\circ", "90"),
    ("90", r"90^{\circ}"),
    ("90", "90°"),
    ("18.90", r"\$18.9"),
    (r"\$32,\!348", "32348"),
    ("72", r"72 \text{ clips}"),
    ("12", "12km"),
    ("12", r"12\text{ m}"),
    ("12", r"12\,\mathrm{km/h}"),
    # names
    ("5", "x=5"),
    ("x=5", "5"),
    ("5", "2+3=5"),
    # intervals and inequalities
    ("(3,4]", "(3, 4]"),
    (r"(2,\infty)", r"(2, \infty)"),
    (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty)\cup(-\infty,2)"),
    (r"x \in [-2,7]", "[-2,7]"),
    ("[-2,7]", r"-2 \le x \le 7"),
    (r"(2,\infty)", "x>2"),
    (r"\left(\frac{3}{5},\frac{8}{3}\right]", r"(0.6, \frac83]"),
    # pairs, lists, sets, matrices
    ("(6,31,-1)", "(6, 31, -1)"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)"),
    ("1,-2", "-2, 1"),
    ("1,-2", r"-2 \text{ and } 1"),
    ("1,-2", "x=1, x=-2"),
    ("3, 5, 7", "7, 5, 3"),
    ("100, 200", "200, 100"),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}"),
    (r"\{1\pm\sqrt{5},-2\}", r"\{-2, 1+\sqrt5, 1-\sqrt5\}"),
    (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", r"\begin{pmatrix} \frac{1}{5} \\ -\frac{18}{5} \end{pmatrix}"),
    # words, choices, bases
    (r"\text{Evelyn}", "evelyn"),
    (r"\text{(C)}", "C"),
    (r"\text{(C)}", r"\textbf{(C)} 12"),
    ("52_8", "52_{8}"),
    ("52_8", "52"),
    # algebra
    ("p - q", "-q+p"),
    ("(a+5)(b+2)", "(b+2)(a+5)"),
    ("2k+2", "2(k+1)"),
    ("y = 2x + 3", "2x+3"),
    ("5x - 7y + 11z + 4 = 0", "10x-14y+22z+8=0"),
    (r"\cot x", r"\frac{\cos x}{\sin x}"),
    ("6 - 5i", "-5i+6"),
    (r"3\sqrt{13}", r"\sqrt{117}"),
    ("2", r"\sqrt{4}"),
    ("5", "2+3"),
]
WRONG = [
    ("72", "72.5"),
    ("5", "-5"),
    ("1/3", "0.33"),
    (r"\frac{3}{8}", r"-\frac{3}{8}"),
    ("20", "0.2"),
    ("20%", "2%"),
    ("1234", "1,23,4"),
    (".0000672", "0.000067"),
    ("12345678", "12345679"),
    ("100000000000000000001", "100000000000000000002"),
    ("72", "1/0"),
    ("5", "5x"),
    ("5", "5 x"),
    ("5", r"5\pi"),
    ("5", "5 or 6"),
    ("x=5", "x = 6"),
    ("(3,4]", "[3,4]"),
    ("(3,4]", "(3,4)"),
    (r"(2,12) \cup (12,102)", "(2,102)"),
    ("(6,31,-1)", "(31,6,-1)"),
    ("1,-2", "1"),
    ("1,-2", "(-2,1)"),
    ("1", "1, 1"),
    ("1,1", "1,2"),
    ("3, 5, 7", "3,5"),
    (r"\begin{pmatrix} -2 \\ -14 \\ -7 \end{pmatrix}", r"\begin{pmatrix} -2 \\ -14 \\ 7 \end{pmatrix}"),
    (r"\text{east}", r"\text{west}"),
    (r"\text{even}", "odd"),
    (r"\text{(C)}", r"\text{(B)}"),
    ("52_8", "52_{7}"),
    ("52_8", "42"),
    ("p - q", "q-p"),
    ("y = 2x + 3", "y=3x+2"),
    ("72", r"\infty"),
    ("72", "nan"),
]
# response, what is read
READ = [
    (r"\boxed{3} no, \boxed{7}", "7"),
    (r"\boxed{7} and then \boxed{", "7"),
    (r"\boxed{7} goes into \boxed{}", "7"),
    (r"$\boxed{\boxed{7}}$", "7"),
    (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\boxed{12 or \boxed{7}", "7"),
    (r"\boxed 5", "5"),
    (r"\fbox{5}", "5"),
    (r"\boxed{5} #### 6. The answer is 8.", "5"),
    ("The answer is 72. #### 6", "72"),
    ("The answer is 71. Wait. The answer is 72.", "72"),
    ("the final answer is $72$.", "72"),
    ("**Answer:** 72", "72"),
    ("Final Answer\n\n72", "72"),
    (r"The answer is: \(72\)", "72"),
    ("The answer is:\n\n$$72$$", "72"),
    ("The answer is 70 + 2 = 72.", "72"),
    ("The answer is 72.5.", "72.5"),
    ("So the answer is 72 dollars, which is much.", "72 dollars"),
    ("The answer is that Natalia sold 72 clips.", "72"),
    ("The answer is 3 because 3+4=7.", "3"),
    ("The answer is Evelyn.", "Evelyn"),
    ("blah\n#### 1,234", "1,234"),
    ("72", "72"),
    ("72 clips", "72 clips"),
    (r"$\frac{1}{2}$", r"\frac{1}{2}"),
    (r"<think>\boxed{5}</think> The answer is 72.", "72"),
    (r"<think>\boxed{5}</think> Done.", "5"),
    # nothing to read
    ("", ""),
    ("   \n", ""),
    (r"\boxed{}", ""),
    (r"\boxed{ \text{ } }", ""),
    (r"so it is \boxed{72", ""),
    (r"The answer is \boxed{72", ""),
    (r"The answer is $\boxed{\frac{1}{2}$", ""),
    ("The answer is", ""),
    ("The answer is ...", ""),
    ("I do not know the answer.", ""),
    ("I think that it is 72", ""),
    ("####", ""),
]
BOMBS = {
    "garbage": "x7$\\{}#^_ " * 1000,
    "open boxes": "\\boxed{" * 30_000,
    "boxes of nothing": "\\boxed " * 30_000,
    "nested braces": "\\boxed{" + "{" * 50_000 + "}" * 50_000 + "}",
    "backslashes": "\\boxed{" + "\\" * 100_000,
    "answer answer": "answer " * 30_000,
    "blanks": "answer" + " " * 100_000,
    "dollars": "the answer is " + "$" * 100_000,
    "hashes": "#" * 100_000,
    "regex bomb": "a" * 100_000 + "!",
    "digits": "1" * 100_000,
    "thoughts": "</think>" * 20_000,
    "half a character": "\ud800\x00 7",
    "tags": "<answer>" * 25_000,
    "display math": "\\[" * 60_000 + "$$" * 60_000,
    "boxes of a blank": "\\boxed{ }" * 20_000,
    "blank lines": "\n" * 190_000 + "7x",
    "end tokens": "<|" * 50_000,
}
# What a box may hold to make a pattern or a big number go wrong.
HOSTILE = [
    "0." + "3" * 1900 + "...",
    "0." + "12" * 140 + "...",
    "{1\\over" * 60 + "}" * 60,
    "1" + " 234" * 70,
    "{\\bf " * 40 + "7" + "}" * 40,
    "a " * 140 + ": 7",
    "7" + " a" * 37 + "!",
    "7" + "(" * 70,
    "\\frac" * 55,
    "<a>" * 90,
    "9999^{999}",
    "0^{-1}",
    "1e999",
    "1⁄0",
    "½½½",
    "√",
    "²",
    "Ⅻ",
    "0.()",
    "\ud800",
]


@pytest.mark.parametrize(("answer", "box"), CORRECT)
def test_correct(answer: str, box: str) -> None:
    assert grade(answer, f"So it is $\\boxed{{{box}}}$.").status == "correct"


@pytest.mark.parametrize(("answer", "box"), WRONG)
def test_wrong(answer: str, box: str) -> None:
    assert grade(answer, f"So it is $\\boxed{{{box}}}$.") == ("wrong", box)


@pytest.mark.parametrize(("response", "answer"), READ)
def test_where_the_answer_is_read(response: str, answer: str) -> None:
    assert extract(response) == answer
    if not answer:
        assert grade("72", response) == ("unparseable", "")


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_hostile_text_costs_no_time(bomb: str) -> None:
    start = time.monotonic()
    assert grade("72", bomb).status == "unparseable"
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("box", HOSTILE)
def test_a_hostile_box_is_wrong(box: str) -> None:
    assert grade("72", f"\\boxed{{{box}}}").status == "wrong"


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['kind']}: {case['answer']}")
def test_cases(case: dict[str, str]) -> None:
    assert grade(case["answer"], case["response"]).status == case["verdict"]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_a_plain_formula_passes_every_step(step: Callable[[str], str]) -> None:
    for text in ("72", "-1.5", "x + 1", r"\frac{1}{2}", r"\sqrt{3}", "(1, 2]", "a, b", "52_8", "f'(x)"):
        assert step(text) == text


def test_cleaning_twice_changes_nothing_more() -> None:
    for case in CASES:
        once = clean(extract(case["response"]))
        assert clean(once) == once


def test_only_the_end_of_an_endless_text_is_read() -> None:
    assert grade("72", "\\boxed{72}" + "y" * 1_000_000).status == "unparseable"
    assert grade("72", "y" * 1_000_000 + "\\boxed{72}").status == "correct"


def test_a_long_answer_is_compared_as_text() -> None:
    long = "+".join(f"x^{{{i}}}" for i in range(100))
    assert same(long, long.replace("+", " + ")) is False  # too long for algebra, and documented so
    assert same(long, long)


def test_a_comparison_that_never_ends_is_ended() -> None:
    child = Child(seconds=0.5)
    start = time.monotonic()
    assert not child.ask("72", "9^{9^{9^9}}")  # one C call that no signal interrupts
    assert not child.ask("72", r"\sum_{k=1}^{10^{12}} \frac{1}{k^2}")
    assert time.monotonic() - start < 20
    assert child.ask("2", r"\sqrt{4}")  # and the next one is answered
    child.close()


def test_a_killed_child_is_replaced() -> None:
    child = Child(seconds=5)
    assert child.ask("2", r"\sqrt{4}")
    assert child.process
    child.process.kill()
    child.process.wait()
    assert child.ask("3", r"\sqrt{9}")
    child.close()


def test_grading_in_threads() -> None:
    verdicts: list[str] = []

    def work(n: int) -> None:
        verdicts.append(grade(rf"{n}\sqrt{{2}}", rf"\boxed{{\sqrt{{{2 * n * n}}}}}").status)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == ["correct"] * 8


PIECES = [
    "\\boxed{",
    "}",
    "{",
    "$",
    "\\frac",
    "answer is",
    "####",
    "1",
    "23",
    ",",
    ".",
    "%",
    " ",
    "\n",
    "x",
    "=",
    "(",
    "]",
    "<answer>",
    "</answer>",
    "½",
    "²",
    "√",
    "答案",
    "：",
    "元",
    "\\\\",
    "\\text{",
    "\\over",
    "...",
    "\\overline{",
    "PM",
    ":30",
    "\u2009",
    "_",
    "^",
    "１",
    "٣",
    "\ud800",
]


@settings(deadline=None, max_examples=150)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join), st.sampled_from(["72", "x=5", "(1,2]", "1,2", ""]))
def test_grading_never_raises(response: str, answer: str) -> None:
    verdict = grade(answer, response)
    assert verdict.status in ("correct", "wrong", "unparseable")
    assert (verdict.extracted == "") == (verdict.status == "unparseable")


# How a right answer may be written. Those of the second list suit numbers only.
RENDERINGS = [
    r"So \boxed{%s}.",
    "The answer is $%s$.",
    "**Final Answer**: $%s$",
    "#### %s",
    "The answer is\n\n\\[\n%s\n\\]",
    r"Answer: $\boxed{\textbf{%s}}$",
    r"$\\boxed{%s}$",
    r"$\boxed{%s\ }$",
    "<answer>$%s$</answer>",
    "最终答案：$%s$",
]
OF_NUMBERS = [
    "The answer is %s.",
    "The answer is **%s** clips.",
    "Done.\n\n%s",
    "%s",
    r"The answer is $\$%s$.",
    r"\boxed{%s\text{ dollars}}",
    r"\boxed{\text{USD }%s}",
    r"\boxed{\textcolor{blue}{%s元}}",
    "答案是 %s。",
]


def references(name: str) -> list[str]:
    path = SHARED / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return [str(json.loads(line)["answer"]) for line in path.read_text(encoding="utf-8").splitlines()]


def misjudged(answers: list[str], renderings: list[str]) -> list[tuple[str, str]]:
    """The references that are not right in their own words."""
    return [(a, way) for a in answers for way in renderings if grade(a, way.replace("%s", a)).status != "correct"]


def test_gsm8k_references() -> None:
    solutions = references("gsm8k/test")
    assert len(solutions) == 1319
    answers = [solution.rpartition("####")[2].strip() for solution in solutions]
    assert all(grade(a, s).status == "correct" for a, s in zip(answers, solutions, strict=True))
    assert misjudged(answers, RENDERINGS + OF_NUMBERS) == []
    values = [float(a.replace(",", "")) for a in answers]
    for i, answer in enumerate(answers):
        for other in (solutions[i - 1], *(way.replace("%s", answers[i - 1]) for way in RENDERINGS + OF_NUMBERS)):
            assert (grade(answer, other).status == "correct") == (values[i] == values[i - 1])


@pytest.mark.parametrize("year", [24, 25])
def test_aime_references(year: int) -> None:
    answers = references(f"aime/aime{year}")
    assert len(answers) == 30
    assert misjudged(answers, RENDERINGS + OF_NUMBERS) == []
    for answer in answers:
        others = [f"\\boxed{{{other}}}" for other in answers if int(other) != int(answer)]
        assert not any(grade(answer, other).status == "correct" for other in others)


EQUAL_NEIGHBOURS = {("5", "x=5"), ("7", "7"), ("3", "3")}  # of MATH-500: the only ones that are truly equal


def test_math500_references() -> None:
    answers = references("math500/test")
    assert len(answers) == 500
    assert misjudged(answers, RENDERINGS) == []
    neighbours = zip(answers, answers[1:] + answers[:1], strict=True)
    assert {(a, b) for a, b in neighbours if grade(a, f"Thus \\boxed{{{b}}}.").status != "wrong"} == EQUAL_NEIGHBOURS
