"""Answers side by side, of a run and of two compared, and the first screen of every page, in a real browser."""

# ruff: noqa: F811 (a fixture that is imported is named again by every test that asks for it)
from __future__ import annotations

import json
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
from browser import DESKTOP, PHONE, browser, complaints, look, open_page, too_wide  # noqa: F401 (browser is a fixture)
from fake_sweep import made, write_cell, write_sweep

from ekd.eval.answers import read_answers
from ekd.eval.compare import compare, main
from ekd.report.compare_view import compare_page
from ekd.report.pages import run_page, sweep_page

PROBLEMS = 1319  # as many as GSM8K's test split has
WORDS = ["".join(Random(i).choices("aeioubcdfglmnprst", k=3 + i % 6)) for i in range(2000)]
PLACES = "[...document.querySelectorAll('[role=feed] article')]"
SHOWN = f"{PLACES}.filter(one => !one.hidden)"


def answer(i: int, right: bool, **changes: Any) -> dict[str, Any]:
    random = Random(2 * i + right)  # words that compress no better than words do
    pieces = [f" {WORDS[min(int(random.expovariate(0.01)), 1999)]}" for _ in range(100)] + [f" \\boxed{{{i}}}"]
    text = "".join(pieces)
    return {
        "problem_id": f"p{i}", "sample": 0, "status": "correct" if right else "wrong", "extracted": str(i),
        "reference": str(i), "finish": "stop", "endless": False, "tokens": len(pieces), "seconds": 0.1,
        "prompt": f"<|im_start|>user\nWhat is {i}?<|im_end|>\n", "text": text, "pieces": pieces,
        "entropy": [round(random.expovariate(2), 4) for _ in pieces], **changes,
    }  # fmt: skip


def sheet(file: Path, solved: int, count: int = PROBLEMS, **last: Any) -> None:
    """Solves every `solved`-th problem; last: what is otherwise with the last one."""
    answers = [answer(i, i % solved == 0, **(last if i == count - 1 else {})) for i in range(count)]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(one)}\n" for one in answers))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    content = made("bucket_70_80", 3, 1.2)
    rest = {"problems": PROBLEMS, "unparseable": 0.0, "truncated": 0.0}
    content["figures"]["benchmark"] = {
        who: {**rest, "accuracy": share, "accuracy_low": share - 0.03, "accuracy_high": share + 0.03}
        for who, share in (("student before", 0.2), ("student after", 0.5), ("teacher", 1.0))
    }
    folder = write_cell(tmp_path_factory.mktemp("answers") / "run", content)
    sheet(folder / "answers_before.jsonl", 5, endless=True, finish="length")
    sheet(folder / "answers.jsonl", 2, text="", pieces=[], entropy=[], status="unparseable", extracted="")
    sheet(folder / "answers_teacher.jsonl", 1)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Path:
    return run_page(run)


@pytest.fixture(scope="module")
def compared(run: Path) -> Path:
    a, b = run.parent / "A" / "answers.jsonl", run.parent / "B" / "answers.jsonl"
    sheet(a, 3, count=90)
    sheet(b, 2, count=90)
    return compare_page(compare(list(read_answers(a).values()), list(read_answers(b).values())), a, b)


def wait(driver: Any, condition: str) -> Any:
    for _ in range(200):
        if found := driver.execute_script(f"return {condition}"):
            return found
        time.sleep(0.05)
    raise AssertionError(f"never came true: {condition}")


def opened(driver: Any, page: Path, **screen: Any) -> Any:
    look(driver, **screen)
    open_page(driver, page)
    wait(driver, "[...document.querySelectorAll('[data-answers]')].every(box => 'ready' in box.dataset)")
    return driver


def test_a_page_of_many_answers_is_small_and_lays_out_what_is_near(page, browser):
    size = page.stat().st_size / 2**20
    print(f"{PROBLEMS:,} problems, three answers of 101 tokens each: {size:.1f} MiB")
    assert 0.5 < size < 8
    driver = opened(browser, page)
    assert driver.execute_script(f"return {PLACES}.length") == PROBLEMS
    driver.execute_script("document.getElementById('answers').scrollIntoView()")
    wait(driver, f"{PLACES}[0].childElementCount > 0")
    assert 0 < driver.execute_script(f"return {PLACES}.filter(one => one.childElementCount).length") < 40
    who = driver.execute_script(f"return [...{PLACES}[0].querySelectorAll('strong')].map(one => one.textContent)")
    assert who[1:] == ["student before: wrong", "student after: right", "teacher: right"]
    tops = driver.execute_script(
        f"return [...{PLACES}[0].querySelectorAll('section')].map(one => one.getBoundingClientRect().top)"
    )
    assert len(set(tops)) == 1, "side by side"
    jump = f"{PLACES}.at(-1).scrollIntoView({{behavior: 'instant'}})"
    wait(driver, f"({jump}, {PLACES}.at(-1).childElementCount > 0 && {PLACES}[0].childElementCount === 0)")
    assert driver.execute_script(f"return {PLACES}.filter(one => one.childElementCount).length") < 40
    assert complaints(driver) == []


def test_answers_are_filtered_by_who_was_right_and_folded_where_nobody_reads_them(page, browser):
    from selenium.webdriver.support.ui import Select

    driver = opened(browser, page)
    box = driver.find_element("css selector", "[data-answers]")
    right = Select(box.find_element("css selector", "[data-right]"))
    known = {option.text.rpartition(": ")[0]: int(option.text.rpartition(": ")[2]) for option in right.options[1:]}
    gained = sum(i % 2 == 0 and i % 5 != 0 for i in range(PROBLEMS - 1))
    assert known["only student after and teacher right"] == gained and sum(known.values()) == PROBLEMS
    right.select_by_visible_text(f"only student after and teacher right: {gained}")
    wait(driver, f"{SHOWN}.length === {gained}")
    assert box.find_element("css selector", "output").text == f"{gained} of {PROBLEMS}"
    right.select_by_index(0)
    ended = Select(box.find_element("css selector", "[data-ended]"))
    ended.select_by_value("blank")
    wait(driver, f"{SHOWN}.length === 1 && {SHOWN}[0].childElementCount > 0")
    folds = f"return [...{SHOWN}[0].querySelectorAll('section')].map(one => one.querySelector('details')?.open)"
    assert driver.execute_script(folds) == [False, False, None], "an endless one, a blank one, and the teacher's"
    ended.select_by_value("")
    box.find_element("css selector", "input").send_keys("what is 777?")
    wait(driver, f"{SHOWN}.length === 1 && {SHOWN}[0].textContent.includes('p777')")
    assert complaints(driver) == []


def test_two_runs_are_compared_on_a_page(run, compared, browser, capsys):
    a, b = run.parent / "A", run.parent / "B"
    assert main([str(a), str(b), "page=true", "--out", str(run.parent / "both.json")], compare_page) == 0
    assert f"page        open {compared.as_uri()}" in capsys.readouterr().out
    assert main([str(a), str(b), "page=maybe"], compare_page) == 2
    assert "not 'maybe'" in capsys.readouterr().err
    found = json.loads((run.parent / "both.json").read_text())["change"]
    driver = opened(browser, compared)
    said = driver.find_element("css selector", ".headline").text
    numbers = [f"{100 * found[name]:+.1f}".replace("-", "−") for name in ("value", "low", "high")]
    assert f"B − A is {numbers[0]} points [{numbers[1]}, {numbers[2]}] over 90 problems" in said
    options = [one.text for one in driver.find_elements("css selector", "[data-right] option")]
    assert options == ["all 90", "all right: 15", "only B right: 30", "only A right: 15", "none right: 30"]
    assert complaints(driver) == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_first_screen_holds_the_answer(size, dark, run, page, compared, browser):
    """Headline and curve of every page, wholly within the window."""
    sweep = run.parent / "sweep"
    whole = sweep / "report" / "index.html" if sweep.exists() else sweep_page(write_sweep(sweep))
    for one in (page, compared, whole):
        driver = opened(browser, one, size=size, dark=dark)
        place = "const box = document.querySelector(arguments[0]).getBoundingClientRect(); return [box.top, box.bottom]"
        headline, curve = (driver.execute_script(place, what) for what in (".headline", "svg.figure"))
        assert 0 < headline[0] < headline[1] <= curve[0] < curve[1] <= size[1], one
        assert too_wide(driver) == 0 and complaints(driver) == [], one
