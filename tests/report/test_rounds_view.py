"""Rounds on a run's page and in the token viewer: who wrote, what both sides read, and shades by other things."""

# ruff: noqa: F811 (a fixture that is imported is named again by every test that asks for it)
from __future__ import annotations

import json
import math

import numpy as np
import pytest
from browser import browser, complaints  # noqa: F401 (browser is a fixture)
from fake_sweep import made, write_cell
from fake_traces import fake_trace
from test_viewer import SPELLING, SUBJECT, numbers, reader, search, stored, turn_to, wait

from ekd.report.pages import run_page
from ekd.report.rounds_view import SHOWN, rounds, table
from ekd.report.viewer.page import write_page
from ekd.report.viewer.shades import darkest

LINE = {"round": 0, "step": 0, "texts": 4, "accuracy": 0.25, "kl": 1.5, "student_log_q": -2.25, "tokens": 40.0}


def told(count: int) -> list[dict[str, float]]:
    return [LINE | {"round": n, "step": 2 * n, "kl": 1.5 / (n + 1), "seconds_writing": 2.0} for n in range(count)]


def test_a_run_s_page_has_a_table_and_a_figure_of_its_rounds(tmp_path):
    run = write_cell(tmp_path / "run", made("vanilla", 0, 1.2))
    assert "What the student wrote" not in run_page(run).read_text()
    lines = [*told(3), {**LINE, "round": 3, "accuracy": math.nan}]
    (run / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = run_page(run).read_text()
    assert "What the student wrote" in text and (run / "report" / "rounds.svg").exists()
    shown = table(rounds(run), steps=4.0)
    first, *_, last = ({c: v.text for c, v in zip(shown.head, row, strict=True)} for row in shown.rows)
    assert (first["KL, nats"], first["student entropy"], first["right, %"]) == ("1.500", "2.250", "25.0")
    assert (last["round"], last["right, %"], last["cut off, %"]) == ("3", "–", "–")
    assert "writing took 6.0 s (60%)" in " ".join(shown.notes) and "learning 4.0 s (40%)" in " ".join(shown.notes)


def test_agreement_is_told_by_outcome_where_texts_were_graded():
    shares = {"agreed_right": 0.5, "parted_right": 0.125, "agreed_wrong": 0.25, "parted_wrong": 0.125}
    said = " ".join(table([LINE | shares, LINE | dict.fromkeys(shares, math.nan)], steps=1.0).notes)
    assert "written in 50.0% and another in 12.5%, in wrong ones its likeliest in 25.0% and another in 12.5%" in said
    assert "graded texts" not in " ".join(table(told(2), steps=1.0).notes)


def test_of_many_rounds_some_are_in_the_table_with_the_first_and_the_last():
    shown = table(told(100), steps=1.0)
    assert len(shown.rows) <= SHOWN and [shown.rows[n][0].text for n in (0, -1)] == ["0", "99"]
    assert f"{len(shown.rows)} of 100 rounds" in " ".join(shown.notes)


@pytest.mark.parametrize("line", ["{", "[1]", '{"round": "<b>"}', '{"step": 1}', '{"round": {}}'])
def test_a_line_that_is_no_round_is_named(tmp_path, line):
    (tmp_path / "rounds.jsonl").write_text(f"{json.dumps(LINE)}\n{line}\n")
    with pytest.raises(ValueError, match=r"rounds.jsonl, line 2 is no round"):
        rounds(tmp_path)


def test_who_wrote_a_text_what_was_read_and_what_shades_it(tmp_path, browser):
    plain, *some = [fake_trace(seed, rows=40) for seed in range(3)]
    below = np.random.default_rng(0)
    read = np.array([7, 5, 9], np.int32)
    some = [
        t._replace(
            policy=f"student@{n}", verdict="correct", teacher_prompt_ids=read,
            contrast=-below.exponential(2, 40).astype(np.float32), log_q=-below.exponential(2, 40).astype(np.float32),
        )
        for n, t in enumerate(some)
    ]  # fmt: skip
    store = stored(tmp_path / "store", [plain, *some])
    traces = [store[t.key] for t in (plain, *some)]
    driver = reader(browser, write_page(tmp_path, store, traces, SPELLING, SUBJECT, top=4))
    assert driver.execute_script("return head.about.shades.map(s => s[0])") == ["entropy", "logprob", "gap", "own"]
    for trace in traces[1:]:
        turn_to(driver, trace.key)
        facts = driver.find_element("id", "facts").text
        assert f"written by {trace.policy}" in facts and "✓ correct" in facts
        read = driver.execute_script("return document.getElementById('read').textContent")
        assert read == SPELLING.text(trace.teacher_prompt_ids.tolist())
        log_p = trace.logprobs[np.cumsum(trace.counts) - trace.counts]
        want = {"entropy": trace.entropy, "logprob": log_p}
        want |= {"gap": log_p - trace.contrast, "own": trace.log_q - log_p}
        for name, value in want.items():
            np.testing.assert_allclose(numbers(driver, name), value, atol=1e-5)
            known = [w for t in traces if (w := of(t, name)) is not None]
            ((_, _, most),) = darkest([{name: np.abs(np.concatenate(known))}])
            shade = driver.execute_script(
                "const box = document.getElementById('shade'); box.value = arguments[0];"
                "box.dispatchEvent(new Event('change'));"
                "return trace.nodes.map(node => +node.style.getPropertyValue('--h'))",
                name,
            )
            np.testing.assert_allclose(shade, np.minimum(np.abs(value) / most, 1), atol=1e-4)
            assert driver.find_element("id", "darkest").text == f"{most:g} nats or more"
    turn_to(driver, plain.key)
    assert not driver.find_element("id", "teacher-reads").is_displayed()
    search(driver, "student@1")
    wait(driver, "shown.length === 1 && head.traces[shown[0]].policy === 'student@1'")
    assert complaints(driver) == []


def of(trace, name: str) -> np.ndarray | None:
    """What is shaded by, of the rows that have a teacher."""
    log_p = trace.logprobs[np.cumsum(trace.counts) - trace.counts]
    if name == "entropy":
        return trace.entropy[trace.valid]
    if name == "logprob":
        return log_p[trace.valid]
    other = trace.contrast if name == "gap" else trace.log_q
    return None if other is None else (other - log_p)[trace.valid]
