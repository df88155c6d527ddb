"""The token viewer in a real browser: it shows what the store holds and underlines what ekd chooses."""

# ruff: noqa: F811 (a fixture that is imported is named again by every test that asks for it)
from __future__ import annotations

import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from browser import DESKTOP, PHONE, browser, complaints, look, open_page, too_wide  # noqa: F401 (browser is a fixture)
from conftest import collector
from fake_traces import fake_trace

from ekd.cli.door import CONF
from ekd.dataset.arithmetic import Arithmetic
from ekd.models.load import load_model, load_tokenizer
from ekd.models.token_kinds import KINDS, kind_of, token_texts
from ekd.report.__main__ import main
from ekd.report.viewer.grading import TraceGrader
from ekd.report.viewer.page import Subject, chosen_keys, natural, write_page
from ekd.report.viewer.spelling import BYTES, SPECIAL, TEXT, UNKNOWN, ViewerSpelling, question, viewer_spelling
from ekd.report.viewer.student_view import views
from ekd.selector.bucket import Bucket
from ekd.selector.topk import TopK
from ekd.store.store import Store
from ekd.types import Trace

REAL = Path(__file__).parents[1] / "fixtures" / "store"  # 20 GSM8K solutions read by SmolLM2
SHARES = (1, 7, 20, 33, 50, 99, 100)
BANDS = ((0, 1), (0, 10), (5, 20), (70, 80), (75, 95), (33, 34), (99, 100), (0, 100))
HOSTILE = "</script><img src=x onerror=\"document.title='broken in'\"><!--<script>"
# words, a character in two halves and one in four, a special token, ids without a token, and markup
WORDS = {i: f" w{i}".encode() for i in range(990)} | {
    1: b"\xe2\x82", 2: b"\xac", 3: b"\xf0", 4: b"\x9f", 5: b"\x8d", 6: b"\x8e.", 7: b".\n\n", 8: b" ",
    9: HOSTILE.encode(), 10: "\u200b".encode(), 11: "\ufeff".encode(), 12: b"\xff", 13: b"",
}  # fmt: skip
SPELLING = ViewerSpelling({i: spelt for i, spelt in WORDS.items() if i != 0}, {0: "<|end|>"})
SUBJECT = Subject(name="some traces", graded="nobody knows", student="")


def stored(path: Path, traces: list[Trace], **origin: Any) -> Store:
    store = Store.create(path, {"vocab": 1000, **origin})
    store.append(traces)
    return store


def of(trace: Trace, tokens: list[int]) -> Trace:
    """The same rows about other tokens: whatever an entry named before, it names once."""
    n, first = len(tokens), np.cumsum(trace.counts) - trace.counts
    wanted = np.repeat(np.array(tokens), trace.counts[:n])
    end = int(trace.counts[:n].sum())
    ids, old = trace.ids[:end].copy(), np.repeat(trace.ids[first[:n]], trace.counts[:n])
    ids[ids == wanted] = old[ids == wanted]
    ids[first[:n]] = tokens
    return trace._replace(
        response_ids=np.array(tokens, np.int32), counts=trace.counts[:n], ids=ids, logprobs=trace.logprobs[:end],
        log_tail=trace.log_tail[:n], entropy=trace.entropy[:n], valid=trace.valid[:n], log_norm=trace.log_norm[:n],
    )  # fmt: skip


def wait(driver: Any, condition: str, *values: Any) -> Any:
    """Until a script's value is true: a page opens traces by itself."""
    for _ in range(200):
        found = driver.execute_script(f"return {condition}", *values)
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"never came true: {condition}")


def reader(driver: Any, page: Path) -> Any:
    look(driver)
    open_page(driver, page)
    wait(driver, "document.documentElement.dataset.ready")
    return driver


def turn_to(driver: Any, key: str) -> None:
    driver.execute_script("go(shown.findIndex(i => head.traces[i].key === arguments[0]))", key)
    wait(driver, "trace.about.key === arguments[0]", key)


def pick(driver: Any, kind: str, **values: int) -> list[int]:
    """Sets the picker as a hand does, and reads what is underlined."""
    driver.execute_script(
        """const [kind, values] = arguments;
        document.querySelector(`[name=kind][value=${kind}]`).click();
        if ("lower" in values) document.getElementById("lower").value = 0;
        for (const id of ["upper", "lower", "percent"]) if (id in values) {
          document.getElementById(id).value = values[id];
          document.getElementById(id).dispatchEvent(new Event("input"));
        }""",
        kind,
        values,
    )
    return driver.execute_script("return [...document.querySelectorAll('.token.chosen')].map(node => node.row)")


def chosen(selector: Any, trace: Trace) -> list[int]:
    """As Student.weigh does it: unmatched rows are in no percentile."""
    rows = np.flatnonzero(trace.valid)
    weight = selector(torch.from_numpy(trace.entropy[rows]), torch.zeros(len(rows), dtype=torch.long))
    return rows[weight.numpy() > 0].tolist()


def numbers(driver: Any, name: str) -> np.ndarray:
    """JSON has no infinity and no nan."""
    return np.array([float(x) for x in driver.execute_script(f"return Array.from(trace.{name}, String)")])


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    """Unmatched rows, ties, inexact entropies, markup, cut characters and a response of one token."""
    folder = tmp_path_factory.mktemp("strange")
    traces = [fake_trace(seed, rows=40 + seed, exact=seed % 2 == 0) for seed in range(4)]
    ties = fake_trace(5, rows=60)
    traces.append(ties._replace(entropy=np.where(ties.valid, np.round(ties.entropy), 0).astype(np.float32)))
    traces.append(of(fake_trace(6, rows=30, unmatched=0.0), [9, 1, 2, 20, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 995, 1, 0]))
    traces.append(of(fake_trace(7, rows=30, unmatched=0.0), [21]))
    traces.append(of(fake_trace(8, rows=30, unmatched=1.0), [21, 22, 0]))
    store = stored(folder / "store", traces)
    shown = [store[key] for key in chosen_keys(store, 1000)]
    return store, write_page(folder, store, shown, SPELLING, SUBJECT, top=8)


def test_pieces_join_whatever_was_cut():
    ids = [9, 1, 2, 0, 3, 4, 5, 6, 995, 12]
    assert SPELLING.text(ids) == HOSTILE + "€🍎.�"
    assert "".join(SPELLING.stretches(ids)) == HOSTILE + "€<|end|>🍎.⟨995⟩�"
    assert [SPELLING.token(i) for i in (2, 0, 995, 20)] == [
        (BYTES, "ac"), (SPECIAL, "<|end|>"), (UNKNOWN, ""), (TEXT, " w20")
    ]  # fmt: skip


def test_the_question_is_found_in_a_chat():
    start, end = "<|im_start|>", "<|im_end|>"
    chat = ["", start, "system\nA careful one.", end, "\n", start, "user\nAn example?\nThink.", end, "\n"]
    chat += [start, "user\nHow many?\nThink.", end, "\n", start, "assistant\n"]
    assert question(chat, "Think.") == "How many?"
    assert question(chat, "") == "How many?\nThink."
    assert question([""], "Think.") == ""


def test_problems_are_in_the_order_of_their_numbers(tmp_path):
    assert sorted(["p-10", "p-9", "p", "a-1", "10", "9"], key=natural) == ["9", "10", "a-1", "p", "p-9", "p-10"]
    store = stored(tmp_path / "store", [fake_trace(seed, rows=3) for seed in (10, 9, 2)])
    assert [store[key].problem_id for key in chosen_keys(store, 2)] == ["problem/2", "problem/9"]
    with pytest.raises(ValueError, match=r"limit .* not 0"):
        chosen_keys(store, 0)
    with pytest.raises(ValueError, match="holds no trace yet"):
        chosen_keys(Store.create(tmp_path / "empty", {"vocab": 10}), 5)


def test_the_page_shows_what_the_store_holds(strange, browser):
    store, page = strange
    driver = reader(browser, page)
    for key in sorted(store.keys()):
        trace = store[key]
        turn_to(driver, key)
        first = np.cumsum(trace.counts) - trace.counts
        for name, value in (
            ("entropy", trace.entropy), ("logprob", trace.logprobs[first]), ("logTail", trace.log_tail),
            ("valid", trace.valid), ("named", trace.counts),
        ):  # fmt: skip
            assert np.array_equal(numbers(driver, name), value.astype(float)), name
        within = np.arange(len(trace.ids)) - np.repeat(first, trace.counts)
        shown, code = trace.ids[within <= 8], numbers(driver, "code")
        ids = driver.execute_script("return Array.from(trace.token, at => spelt[at].id)")
        assert ids == shown.tolist()
        p = np.where(code < 65535, np.exp(-code / 2048), 0)
        np.testing.assert_allclose(p, np.exp(trace.logprobs[within <= 8]), rtol=2.5e-4, atol=1.3e-14)
        hidden = [np.exp(trace.logprobs[a:b][9:]).sum() for a, b in zip(first, first + trace.counts, strict=True)]
        np.testing.assert_allclose(numbers(driver, "hidden"), hidden, rtol=1e-5, atol=1e-12)
        text = driver.execute_script("return document.getElementById('tokens').textContent")
        assert text == SPELLING.text(trace.response_ids.tolist())
    assert complaints(driver) == []


def test_markup_in_a_trace_stays_text(strange, browser):
    _, page = strange
    driver = reader(browser, page)
    turn_to(driver, f"{6:032x}")
    assert driver.find_elements("css selector", ".token")[0].text == HOSTILE
    driver.execute_script("trace.nodes[0].focus()")
    assert HOSTILE.replace(" ", "␣") in driver.find_element("id", "card").text
    search(driver, HOSTILE)
    assert not driver.find_elements("css selector", "img")
    assert driver.title == "some traces: tokens"
    assert HOSTILE not in page.read_text()
    driver.execute_script("document.body.insertAdjacentHTML('beforeend', arguments[0])", HOSTILE)
    time.sleep(0.2)  # even a page that did insert it would not run it
    assert driver.title == "some traces: tokens"


@pytest.mark.parametrize("where", ["real", "strange"])
def test_the_picker_chooses_what_ekd_chooses(where, strange, tmp_path, browser):
    store, page = strange
    if where == "real":
        store = Store(REAL)
        traces = [store[key] for key in chosen_keys(store, 6)]
        page = write_page(tmp_path, store, traces, SPELLING, SUBJECT, top=4)
    driver = reader(browser, page)
    for key in driver.execute_script("return head.traces.map(t => t.key)"):
        trace = store[key]
        turn_to(driver, key)
        if not trace.valid.any():
            assert pick(driver, "bucket", lower=70, upper=80) == pick(driver, "topk", percent=20) == []
            continue
        assert pick(driver, "vanilla") == np.flatnonzero(trace.valid).tolist()
        for share in SHARES:
            want = chosen(TopK(k_percent=share, scope="sequence"), trace)
            assert pick(driver, "topk", percent=share) == want, (key, share)
            drawn = pick(driver, "random", percent=share)
            assert len(drawn) == len(want) and set(drawn) <= set(np.flatnonzero(trace.valid))
        for lower, upper in BANDS:
            want = chosen(Bucket(lower=lower, upper=upper, scope="sequence"), trace)
            assert pick(driver, "bucket", lower=lower, upper=upper) == want, (key, lower, upper)
            count = driver.find_element("id", "outcome").text
            assert count.startswith(f"{len(want)} of {trace.valid.sum()} tokens")


def test_random_is_a_draw_that_can_be_drawn_again(strange, browser):
    _, page = strange
    driver = reader(browser, page)
    one = pick(driver, "random", percent=30)
    pick(driver, "vanilla")
    assert pick(driver, "random", percent=30) == one
    assert "not the same draw" in driver.find_element("id", "note").text
    driver.find_element("id", "again").click()
    two = driver.execute_script("return [...document.querySelectorAll('.token.chosen')].map(node => node.row)")
    assert len(two) == len(one) and two != one


def test_hover_and_keys_show_the_card(strange, browser):
    from selenium.webdriver import ActionChains, Keys

    store, page = strange
    driver = reader(browser, page)
    trace = store[f"{2:032x}"]
    turn_to(driver, trace.key)
    card = driver.find_element("id", "card")
    assert not card.is_displayed()
    row = int(np.flatnonzero(trace.valid)[3])
    ActionChains(driver).move_to_element(driver.find_elements("css selector", ".token")[row]).perform()
    assert card.is_displayed()
    first = int(trace.counts[:row].sum())
    told = card.text
    assert f"id\n{trace.response_ids[row]}\n" in told and f"{trace.entropy[row]:.4f} nats" in told
    assert f"{trace.logprobs[first]:.4f}".replace("-", "−") in told
    below = (trace.entropy[trace.valid] < trace.entropy[row]).sum()
    assert f"percentile in its sequence\n{100 * below / (trace.valid.sum() - 1):.1f}" in told
    bars = driver.execute_script(
        "return [...document.querySelectorAll('#card tr')].map(r => [r.className, r.querySelector('th').textContent,"
        " +getComputedStyle(r.querySelector('i')).getPropertyValue('--p')])"
    )
    shares = [p for kind, _, p in bars if kind != "more"]
    assert shares == sorted(shares, reverse=True) and len(shares) == min(trace.counts[row], 9)
    assert sum(p for *_, p in bars) == pytest.approx(1, abs=2e-3)
    assert [p for kind, _, p in bars if kind == "next"] == [pytest.approx(np.exp(trace.logprobs[first]), abs=1e-5)]
    ActionChains(driver).send_keys(Keys.ESCAPE).perform()
    assert not card.is_displayed()

    driver.execute_script("trace.nodes[0].focus()")
    keys = ActionChains(driver)
    keys.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT).perform()
    assert driver.switch_to.active_element.get_property("row") == 1
    assert card.is_displayed() and driver.switch_to.active_element.get_attribute("aria-describedby") == "card"
    assert len(driver.find_elements("css selector", ".token[tabindex='0']")) == 1, "one stop of Tab, wherever one was"
    ActionChains(driver).send_keys(Keys.ARROW_DOWN).perform()
    lower = driver.execute_script(
        "return document.activeElement.getClientRects()[0].top - trace.nodes[1].getClientRects()[0].top"
    )
    assert lower > 10
    ActionChains(driver).send_keys(Keys.END).perform()
    assert driver.switch_to.active_element.get_property("row") == len(trace.response_ids) - 1
    picked = pick(driver, "topk", percent=10)
    driver.execute_script("trace.nodes[0].focus()")
    ActionChains(driver).send_keys("n").perform()
    assert driver.switch_to.active_element.get_property("row") == next(i for i in picked if i > 0)
    ActionChains(driver).send_keys(Keys.ESCAPE).perform()
    assert not card.is_displayed()
    assert complaints(driver) == []


def test_both_handles_move_and_never_cross(strange, browser):
    from selenium.webdriver import ActionChains, Keys

    _, page = strange
    driver = reader(browser, page)
    assert pick(driver, "bucket")
    lower, upper = (driver.find_element("id", name) for name in ("lower", "upper"))

    def values() -> tuple[int, int]:
        return int(lower.get_property("value")), int(upper.get_property("value"))

    def drag(handle: Any, to: float) -> None:
        wide = handle.size["width"]
        at = (wide - 16) * (int(handle.get_property("value")) - 50) / 100
        move = ActionChains(driver).move_to_element_with_offset(handle, round(at), 0).click_and_hold()
        move.move_by_offset(round((wide - 16) * (to - 50) / 100 - at), 0).release().perform()

    assert values() == (70, 80)
    drag(lower, 30)
    assert abs(values()[0] - 30) <= 2 and values()[1] == 80
    drag(upper, 50)
    assert abs(values()[1] - 50) <= 2
    drag(lower, 95)
    assert values()[0] == values()[1] - 1, "a handle stops before the other"
    before = values()
    lower.send_keys(Keys.ARROW_RIGHT)
    upper.send_keys(Keys.ARROW_LEFT)
    assert values() == before
    lower.send_keys(Keys.HOME)
    upper.send_keys(Keys.END, Keys.ARROW_LEFT)
    assert values() == (0, 99)
    assert driver.find_element("id", "band-out").text == "0 to 99"
    assert "selector.lower=0 selector.upper=99" in driver.find_element("id", "command").text


def search(driver: Any, words: str) -> None:
    script = (
        "const box = document.getElementById('search'); box.value = arguments[0]; box.dispatchEvent(new Event('input'))"
    )
    driver.execute_script(script, words)


def test_search_filters_and_sorting(tmp_path, browser):
    from selenium.webdriver import Keys
    from selenium.webdriver.support.ui import Select

    maker = collector(store=str(tmp_path / "store"))
    keys = maker.collect("train", 12).keys
    store, tokenizer = maker.open(), load_tokenizer("tiny")
    from ekd.teacher.wire.vocabulary import Vocabulary

    special = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
    spelling = ViewerSpelling(Vocabulary(tokenizer).bytes_of, special)
    traces = [store[key] for key in keys]
    right = traces[0]._replace(key=f"{1:032x}", sample=1)  # a random model solves nothing: one solution is put right
    answer = next(p.answer for p in maker.dataset.problems("train") if p.id == right.problem_id)
    ids = tokenizer.encode(f"\\boxed{{{answer}}}")
    n = len(ids)
    right = right._replace(
        response_ids=np.array(ids, np.int32), counts=np.ones(n, np.int32), ids=np.array(ids, np.int32),
        logprobs=np.zeros(n, np.float32), log_tail=np.full(n, -np.inf, np.float32), entropy=np.zeros(n, np.float32),
        valid=np.zeros(n, bool), log_norm=np.zeros((n, 0), np.float32), finish="stop",
    )  # fmt: skip
    foreign = traces[1]._replace(key=f"{2:032x}", problem_id="of another dataset", verdict="")
    traces += [right, foreign]
    page = write_page(
        tmp_path, store, traces, spelling, SUBJECT._replace(graded=""), top=4, grade=TraceGrader(maker.dataset)
    )
    driver = reader(browser, page)

    def shown() -> list[str]:
        return driver.execute_script("return shown.map(i => head.traces[i].key)")

    assert shown() == [t.key for t in traces]
    status = Select(driver.find_element("id", "status"))
    status.select_by_value("correct")
    assert shown() == [right.key]
    wait(driver, "trace.about.key === arguments[0]", right.key)
    assert "✓ correct" in driver.find_element("id", "facts").text
    status.select_by_value("unknown")
    assert shown() == [foreign.key]
    status.select_by_value("")
    Select(driver.find_element("id", "finish")).select_by_value("stop")
    assert shown() == [t.key for t in traces if t.finish == "stop"]
    Select(driver.find_element("id", "finish")).select_by_value("")

    problems = {p.id: p.question for p in maker.dataset.problems("train")}
    words = problems[traces[3].problem_id].upper()[:60]
    box = driver.find_element("id", "search")
    box.send_keys(words)
    want = [
        t.key for t in traces if words.lower() in problems.get(t.problem_id, problems[traces[1].problem_id]).lower()
    ]
    assert shown() == want and traces[3].key in want
    assert driver.find_element("id", "count").text.startswith(f"{len(want)} of {len(traces)}")
    box.send_keys("no such words")
    assert shown() == [] and "No trace fits" in driver.find_element("id", "list").text
    box.send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.BACKSPACE)
    search(driver, "boxed{" + answer + "}")
    assert right.key in shown(), "responses are searched, too"
    search(driver, "")
    for order, value in (("-entropy", lambda t: -mean(t)), ("entropy", mean), ("-rows", lambda t: -len(t.valid))):
        Select(driver.find_element("id", "sort")).select_by_value(order)
        known = {t.key: t for t in traces}
        found = [known[key] for key in shown()]
        measured = [t for t in found if t.valid.any() or "rows" in order]
        assert measured == sorted(measured, key=value) and len(found) == len(traces)
    assert complaints(driver) == []


def mean(trace: Trace) -> float:
    return float(trace.entropy[trace.valid].mean(dtype=np.float64))


def test_the_list_is_walked_by_keys(strange, browser):
    from selenium.webdriver import Keys

    _, page = strange
    driver = reader(browser, page)
    box = driver.find_element("id", "list")
    box.send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    wait(driver, "current === 2 && trace.about === head.traces[2]")
    active = driver.find_element("id", box.get_attribute("aria-activedescendant"))
    assert active.get_attribute("aria-selected") == "true" and active.get_attribute("aria-posinset") == "3"
    box.send_keys(Keys.END)
    wait(driver, "current === head.traces.length - 1")
    assert not driver.find_element("id", "next").is_enabled()


@pytest.mark.parametrize("look_of", ["token", "token dim"])
@pytest.mark.parametrize("dark", [False, True])
def test_every_shade_can_be_read_and_falls_evenly(dark, look_of, strange, browser):
    """Text on every shade has the contrast that WCAG 2.2 asks for, and lightness takes equal steps."""
    _, page = strange
    driver = reader(browser, page)
    look(driver, dark=dark)
    shades = driver.execute_script(
        """const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
        const rgb = color => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
          return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3); };
        const node = trace.nodes[0]; node.style.transition = "none"; node.className = arguments[0];
        const out = [];
        for (let h = 0; h <= 10; h++) {
          node.style.setProperty("--h", h / 10);
          out.push(rgb(getComputedStyle(node).backgroundColor));
        }
        const line = getComputedStyle(document.documentElement).getPropertyValue("--chosen");
        return [out, rgb(getComputedStyle(node).color), rgb(line)];""",
        look_of,
    )
    backgrounds, ink, underline = (np.array(part) for part in shades)
    light = [lightness(shade) for shade in backgrounds]
    steps = np.diff(light)
    assert (np.sign(steps) == (1 if dark else -1)).all() and abs(light[-1] - light[0]) > (
        0.2 if look_of == "token" else 0.05
    )
    assert look_of == "token dim" or np.ptp(steps) < 0.35 * abs(steps.mean()), "8 bits a channel leave that much"
    for shade in backgrounds:
        assert contrast(ink, shade) >= 4.5
        assert contrast(underline, shade) >= 3


def linear(rgb: np.ndarray) -> np.ndarray:
    c = np.asarray(rgb) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lightness(rgb: np.ndarray) -> float:
    """L of OKLab (Ottosson 2020)."""
    to_lms = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
              [0.0883024619, 0.2817188376, 0.6299787005]]  # fmt: skip
    return float(np.cbrt(np.array(to_lms) @ linear(rgb)) @ [0.2104542553, 0.7936177850, -0.0040720468])


def contrast(a: np.ndarray, b: np.ndarray) -> float:
    one, other = sorted(float(linear(rgb) @ [0.2126, 0.7152, 0.0722]) for rgb in (a, b))
    return (other + 0.05) / (one + 0.05)


def test_what_is_not_chosen_or_of_another_kind_is_dimmed(strange, browser):
    from selenium.webdriver.support.ui import Select

    store, page = strange
    driver = reader(browser, page)
    trace = store[f"{6:032x}"]
    turn_to(driver, trace.key)

    def dimmed() -> set[int]:
        return set(driver.execute_script("return trace.nodes.filter(one => one.matches('.dim')).map(one => one.row)"))

    everything = set(range(len(trace.response_ids)))
    assert dimmed() == set(), "vanilla chooses all"
    left = everything - set(pick(driver, "topk", percent=30))
    assert left and dimmed() == left
    pick(driver, "vanilla")
    Select(driver.find_element("id", "token-kind")).select_by_value("words")
    words = {row for row, i in enumerate(trace.response_ids.tolist()) if SPELLING.kind(i) == "words"}
    assert words and dimmed() == everything - words
    assert f"of words {len(words)} of {len(words)}" in driver.find_element("id", "outcome").text


def overview(driver: Any) -> None:
    driver.execute_script("document.querySelector('[name=view][value=overview]').click()")
    wait(driver, "document.getElementById('survey').textContent.startsWith('Over the')")


def rows(driver: Any, table: str) -> list[list[str]]:
    cells = "[...row.cells].map(cell => cell.textContent)"
    return driver.execute_script(f"return [...$(arguments[0]).tBodies[0].rows].map(row => {cells})", table)


def test_the_overview_counts_what_ekd_chooses(tmp_path, browser):
    from selenium.webdriver.support.ui import Select

    store = Store(REAL)
    traces = [store[key] for key in chosen_keys(store, 20)]
    spelling = ViewerSpelling(
        {i: f" {i}".encode() for i in range(60_000) if i % 7} | {7 * i: f"w{i}".encode() for i in range(9000)}, {}
    )
    driver = reader(browser, write_page(tmp_path, store, traces, spelling, SUBJECT, top=4))
    picked = {"topk": TopK(k_percent=20, scope="sequence"), "bucket": Bucket(lower=70, upper=80, scope="sequence")}
    overview(driver)
    for kind, selector in picked.items():
        if kind == "bucket":
            pick(driver, kind)
            wait(driver, "document.getElementById('forks-title').textContent.includes('percentiles 70 to 80')")
        taken, of, nats = Counter(), Counter(), Counter()
        for trace in traces:
            of.update(trace.response_ids[trace.valid].tolist())
            for row in chosen(selector, trace):
                token = int(trace.response_ids[row])
                taken[token] += 1
                nats[token] += float(trace.entropy[row])
        told = driver.find_element("css selector", "#forks caption").text
        assert told.startswith(f"{taken.total():,} chosen, {len(taken)} different tokens")
        found = rows(driver, "forks")
        names = {spelling.text([i]).replace(" ", "␣"): i for i in taken}
        assert [int(one[2]) for one in found] == sorted(taken.values(), reverse=True)[: len(found)]
        for name, kind_said, times, among, _, mean_nats in found:
            i = names[name]
            assert (kind_said, int(times), int(among)) == (spelling.kind(i), taken[i], of[i])
            assert float(mean_nats) == pytest.approx(nats[i] / taken[i], abs=0.006)
    Select(driver.find_element("id", "token-kind")).select_by_value("words")
    wait(driver, "document.getElementById('survey').textContent.includes('words only')")
    assert {one[1] for one in rows(driver, "forks")} == {"words"}
    assert complaints(driver) == []


def test_the_highest_tokens_lead_to_their_places(strange, browser):
    from selenium.webdriver.support.ui import Select

    store, page = strange
    driver = reader(browser, page)
    overview(driver)
    Select(driver.find_element("id", "worst")).select_by_value("logprob")
    wait(driver, "document.querySelector('#worst-list a')?.hash.includes('shade=logprob')")
    size = []
    for key in sorted(store.keys()):
        trace = store[key]
        log_p = trace.logprobs[np.cumsum(trace.counts) - trace.counts]
        size += [(-float(p), trace.problem_id, row) for row, p in enumerate(log_p) if trace.valid[row]]
    size.sort(reverse=True)
    found = rows(driver, "worst-list")
    assert [float(one[0]) for one in found] == pytest.approx([one[0] for one in size[: len(found)]], abs=0.006)
    assert len(found) == 100
    driver.find_elements("css selector", "#worst-list a")[3].click()
    wait(driver, "!document.querySelector('article').hidden && trace.reached === arguments[0]", size[3][2])
    assert driver.execute_script("return [trace.about.id, document.getElementById('shade').value]") == [
        size[3][1],
        "logprob",
    ]
    assert driver.switch_to.active_element.get_property("row") == size[3][2]
    driver.back()
    wait(driver, "!document.getElementById('overview').hidden")

    # a fork leads to where it stands
    driver.execute_script("document.querySelector('#forks tbody button').click()")
    wait(driver, "only !== null && !document.getElementById('all-tokens').hidden")
    name, _, _, among, *_ = next(one for one in rows(driver, "forks") if one)
    assert (
        len(rows(driver, "worst-list")) == int(among) and f"only {name}" in driver.find_element("id", "all-tokens").text
    )
    assert complaints(driver) == []


def test_a_link_brings_back_what_was_shown(strange, browser, tmp_path):
    from selenium.webdriver.support.ui import Select

    store, page = strange
    driver = reader(browser, page)
    Select(driver.find_element("id", "sort")).select_by_value("-logprob")
    Select(driver.find_element("id", "finish")).select_by_value("stop")
    Select(driver.find_element("id", "shade")).select_by_value("logprob")
    Select(driver.find_element("id", "token-kind")).select_by_value("words")
    pick(driver, "bucket", lower=35, upper=60)
    driver.execute_script("go(shown.length - 1)")
    wait(driver, "trace.about === head.traces[current]")
    driver.execute_script("trace.nodes[4].focus()")
    wait(driver, "location.hash.includes('at=4')")
    said = "return [state(), shown, [...document.querySelectorAll('.token.chosen')].map(node => node.row)]"
    before, address = driver.execute_script(said), driver.current_url
    order = [store[key] for key in sorted(store.keys())]
    assert before[0]["problem"] in {one.problem_id for one in order if one.finish == "stop"}
    driver.get("about:blank")
    driver.get(address)
    wait(driver, "document.documentElement.dataset.ready")
    assert driver.execute_script(said) == before
    assert driver.switch_to.active_element.get_property("row") == 4
    assert "lower=35" in address and "trace=" not in address, "problem and sample say which"

    driver.get("about:blank")
    driver.get(page.resolve().as_uri() + "#problem=gone&shade=colour&sort=rows")
    wait(driver, "document.documentElement.dataset.ready")
    missing = driver.find_element("id", "missing")
    assert missing.is_displayed() and "no shade=colour, problem=gone" in missing.text
    assert driver.execute_script("return [$('sort').value, $('shade').value, current === shown[0]]") == [
        "rows",
        "entropy",
        True,
    ]
    assert complaints(driver) == []


def test_two_texts_of_one_sample_have_links_of_their_own(tmp_path, browser):
    one = fake_trace(1, rows=9)
    twin = fake_trace(2, rows=7)._replace(problem_id=one.problem_id, sample=one.sample)
    store = stored(tmp_path / "store", [one, twin])
    driver = reader(browser, write_page(tmp_path, store, [one, twin], SPELLING, SUBJECT, top=4))
    driver.execute_script("go(1)")
    wait(driver, "location.hash.includes(arguments[0])", twin.key)
    address = driver.current_url
    driver.get("about:blank")
    driver.get(address)
    wait(driver, "document.documentElement.dataset.ready && trace.about.key === arguments[0]", twin.key)


def test_a_tokens_kind_is_what_ekd_calls_it():
    tokenizer = load_tokenizer("tiny")
    spelling, texts = viewer_spelling(tokenizer, "tiny"), token_texts(tokenizer, 272)
    assert [spelling.kind(i) for i in range(272)] == [kind_of(text) for text in texts]
    assert len({spelling.kind(i) for i in range(272)}) == len(KINDS)


def test_a_thousand_traces_open_in_three_seconds(tmp_path, browser):
    some = [fake_trace(seed, rows=300, most=24, unmatched=0.01) for seed in range(20)]
    traces = [some[i % 20]._replace(key=f"{i:032x}", problem_id=f"p/{i}", sample=0) for i in range(1000)]
    store = stored(tmp_path / "store", traces)
    page = write_page(tmp_path, store, traces, SPELLING, SUBJECT, top=8)
    driver = reader(browser, page)
    took = float(driver.execute_script("return document.documentElement.dataset.ready"))
    size = page.stat().st_size / 2**20
    print(f"1,000 traces x 300 tokens x 8: {size:.1f} MiB, open after {took:.0f} ms")
    assert driver.execute_script("return head.traces.length") == 1000
    assert took < 3000 and size < 24
    assert len(driver.find_elements("css selector", ".item")) < 40, "only the lines in sight exist"
    began = time.monotonic()
    driver.find_element("id", "search").send_keys("w17 w")
    driver.execute_script("go(shown.length - 1)")
    wait(driver, "trace.about === head.traces[current]")
    assert time.monotonic() - began < 3
    began = time.monotonic()
    overview(driver)
    took = time.monotonic() - began
    print(f"the overview took {1000 * took:.0f} ms")
    assert took < 10 and len(rows(driver, "worst-list")) == 100
    driver.execute_script("document.querySelector('[name=view][value=solution]').click()")
    slide = driver.execute_script(
        "const began = performance.now(), lower = document.getElementById('lower');"
        "document.querySelector('[value=bucket]').click(); lower.value = 40; lower.dispatchEvent(new Event('input'));"
        "return performance.now() - began"
    )
    assert slide < 200, "a handle is followed live"


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_first_screen_holds_the_picker_the_question_and_the_first_tokens(size, strange, browser):
    """A newcomer who does not scroll sees what the page is about."""
    _, page = strange
    driver = reader(browser, page)
    look(driver, size=size)
    for wanted in ("[name=kind]", "#outcome", "#title", "#question", "#tokens .token"):
        top, bottom = driver.execute_script(
            "const box = document.querySelector(arguments[0]).getBoundingClientRect(); return [box.top, box.bottom]",
            wanted,
        )
        assert 0 <= top < bottom <= size[1], wanted
    seen = driver.execute_script(
        "return [...document.querySelectorAll('#tokens .token')].filter("
        "node => node.getBoundingClientRect().bottom <= innerHeight).length"
    )
    assert seen >= 10, "the first tokens are below the screen"


def test_a_phone_reads_it_too(strange, browser):
    _, page = strange
    driver = reader(browser, page)
    look(driver, size=PHONE)
    open_page(driver, page)
    wait(driver, "document.documentElement.dataset.ready")
    assert too_wide(driver) == 0
    side, button = driver.find_element("id", "side"), driver.find_element("id", "open")
    assert not side.is_displayed()
    button.click()
    assert side.is_displayed() and button.get_attribute("aria-expanded") == "true"
    driver.find_elements("css selector", ".item")[2].click()
    wait(driver, "trace.about === head.traces[2]")
    assert not side.is_displayed()
    driver.execute_script("trace.nodes[5].click()")
    left, right, bottom, covered = driver.execute_script(
        "const box = document.getElementById('card').getBoundingClientRect();"
        "return [box.left, box.right, box.bottom, trace.nodes[5].getBoundingClientRect().bottom - box.top]"
    )
    assert left >= 0 and right <= PHONE[0] and bottom <= PHONE[1]
    assert covered <= 0, "the card does not lie on its token"
    assert complaints(driver) == []


def composed(*words: str) -> Any:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("report", list(words))


def test_the_door_makes_a_page_with_the_students_view(tmp_path, browser):
    maker = collector(store=str(tmp_path / "store"))
    keys = maker.collect("train", 5).keys
    store, run = maker.open(), tmp_path / "run"
    model = load_model("tiny:2").eval()
    model.save_pretrained(run / "student")
    load_tokenizer("tiny").save_pretrained(run / "student")
    posed = {"seed": 0, "train": 24, "val": 6, "test": 6, "kinds": None, "levels": [1]}
    posed["_target_"] = "ekd.dataset.arithmetic.Arithmetic"
    (run / "run.json").write_text(json.dumps({"config": {"dataset": posed}}))
    assert main(composed(f"traces={tmp_path}/store", f"run={run}", "limit=4", "top=3")) == 0
    driver = reader(browser, tmp_path / "store" / "report" / "traces.html")
    assert "4 of the store’s 5 traces; python -m ekd.report traces=" in driver.find_element("id", "cut").text
    assert driver.execute_script("return [...new Set(head.traces.map(t => t.status))]") != ["unknown"]
    for key in driver.execute_script("return head.traces.map(t => t.key)"):
        trace = store[key]
        assert key in keys
        turn_to(driver, key)
        want = plain(model, trace)
        for name, value in want.items():
            np.testing.assert_allclose(numbers(driver, name), value, rtol=1e-4, atol=1e-4, err_msg=name)
    driver.execute_script("trace.nodes[2].focus()")
    told = driver.find_element("id", "card").text
    far = re.search(r"KL to the teacher\n([0-9.]+) nats", told)
    assert far and float(far[1]) == pytest.approx(want["kl"][2], abs=2e-4)
    shares = driver.execute_script(
        "return [...document.querySelectorAll('#card .line.student i')].map(bar => +bar.style.getPropertyValue('--p'))"
    )
    assert len(shares) >= 2 and sum(shares) == pytest.approx(1, abs=1e-3)
    assert complaints(driver) == []


def plain(model: Any, trace: Trace) -> dict[str, np.ndarray]:
    """The student's view the long way round: all logits, one softmax."""
    ids = torch.from_numpy(np.concatenate([trace.prompt_ids, trace.response_ids])).long()[None]
    with torch.no_grad():
        log_q = F.log_softmax(model(input_ids=ids).logits[0, len(trace.prompt_ids) - 1 : -1].double(), -1)
    far = []
    for row, (end, count) in enumerate(zip(np.cumsum(trace.counts), trace.counts, strict=True)):
        known, log_p = trace.ids[end - count : end], trace.logprobs[end - count : end].astype(float)
        q, tail = log_q[row, known].numpy(), np.exp(float(trace.log_tail[row]))
        rest = np.log(max(1 - np.exp(q).sum(), 1e-300))
        far.append((np.exp(log_p) * (log_p - q)).sum() + (tail * (np.log(tail) - rest) if tail > 0 else 0))
    return {"kl": np.array(far), "sEntropy": -(log_q.exp() * log_q).sum(1).numpy()}


def test_views_come_in_the_order_of_the_traces():
    from conftest import traces

    some = traces(5)
    model = load_model("tiny:2").eval()
    for trace, view in zip(some, views(model, some, 272, 0, 64), strict=True):
        np.testing.assert_allclose(view.entropy, plain(model, trace)["sEntropy"], rtol=1e-4, atol=1e-5)
        assert view.log_q.shape == trace.ids.shape
    with pytest.raises(ValueError, match="model's head has 272 rows"):
        views(model, [some[0]._replace(ids=np.full_like(some[0].ids, 300))], 400, 0, 64)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["tokenizer=null"], "does not say which tokenizer"),
        (["tokenizer=tiny"], "tokenizers differ"),
        (["run=nowhere"], "no finished student"),
    ],
)
def test_what_cannot_be_shown_is_said_in_a_sentence(words, sentence):
    with pytest.raises(ValueError, match=sentence):
        main(composed(f"traces={REAL}", *words))


def test_a_dataset_that_posed_none_of_it_is_refused(tmp_path):
    maker = collector(store=str(tmp_path / "store"))
    maker.collect("train", 2)
    with pytest.raises(ValueError, match="none of the problems"):
        main(composed(f"traces={tmp_path}/store", "dataset=arithmetic", "dataset.seed=5"))


@pytest.mark.parametrize(("seed", "known"), [(0, True), (5, False)])
def test_a_store_is_graded_without_being_told_its_dataset(seed, known, tmp_path, browser):
    """A store names the class alone: as it stands it is tried, and the questions say whether it was that one."""
    posed = Arithmetic(seed=seed, train=400, val=40, test=100, kinds=None, levels=[1, 2])
    maker = collector(dataset=posed, store=str(tmp_path / "made"))
    keys = maker.collect("train", 3).keys
    ungraded = [maker.open()[key]._replace(verdict="") for key in keys]
    Store.create(tmp_path / "store", maker.origin()).append(ungraded)
    assert main(composed(f"traces={tmp_path}/store", "tokenizer=tiny")) == 0
    driver = reader(browser, tmp_path / "store" / "report" / "traces.html")
    statuses = driver.execute_script("return head.traces.map(t => t.status)")
    why = driver.find_element("id", "why")
    if known:
        assert "unknown" not in statuses and driver.execute_script("return head.traces.every(t => t.answer)")
        assert not why.is_displayed()
    else:
        assert (
            statuses == ["unknown"] * 3 and "Name the dataset that posed the problems: dataset=arithmetic" in why.text
        )
