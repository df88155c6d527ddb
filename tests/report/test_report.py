"""The report page: what it says of sweeps whose truth is known, of broken ones, and how it looks in a real browser."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from itertools import product
from pathlib import Path
from time import monotonic

import pytest
from browser import DESKTOP, PHONE, browser, complaints, look, open_page, screenshot, too_wide  # noqa: F401
from fake_sweep import BANDS, METHODS, flat_truth, made, method, share, write_cell, write_sweep
from scipy import stats

from ekd.method import comparisons_of, control_of, ordered, tiling
from ekd.report import pages
from ekd.report.effects import holm
from ekd.report.outcome import outcome
from ekd.report.pages import run_page, sweep_page, watch_sweep
from ekd.report.plain import inert
from ekd.report.section import results, sections
from ekd.report.sweep import Curve, curve, read_sweep
from ekd.report.sweep_view import averaged, write_cells
from ekd.report.tables import method_table

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """Twenty methods, three seeds, two budgets, one failed cell, one cut off and one never started."""
    path = write_sweep(tmp_path_factory.mktemp("reports") / "bucket_sweep")
    write_sweep(path, budget="tokens", methods=["vanilla", "random_10", "bucket_70_80"], rng=1)
    failed = path / "steps" / "topk_10" / "seed_2"
    (failed / "metrics.json").unlink()
    (failed / "failed.txt").write_text("the teacher <b>ran</b> out of memory")
    cut = path / "steps" / "topk_15" / "seed_1" / "metrics.json"
    cut.write_text(cut.read_text()[:700])
    for file in (path / "steps" / "topk_20" / "seed_0").rglob("*.*"):
        file.unlink()
    return path


@pytest.fixture(scope="module")
def page(sweep) -> Path:
    return sweep_page(sweep)


def said(page: Path) -> str:
    """The page without its style and script."""
    return re.sub(r"<style>.*?</style>|<script>.*?</script>", "", page.read_text(), flags=re.DOTALL)


def test_the_page_holds_both_budgets_apart_and_names_what_is_missing(page):
    text = page.read_text()
    assert text.index("Equal steps") < text.index("Equal supervised tokens")
    assert "the teacher &lt;b&gt;ran&lt;/b&gt; out of memory" in text
    assert "metrics.json is not whole" in text
    assert "no such run here" in text
    assert re.search(r"cells finished</dt><dd>66 <small>of 69", text)
    assert "Not every method has every seed" in text
    assert not re.search(
        r"\bnan\b|\bNone\b|\binf\b", re.sub(r"<style>.*?</style>|<script>.*?</script>", "", text, flags=re.S)
    )
    assert not re.search(r"(?:src|href)=\"https?:", text), "nothing is fetched"
    assert len(text) < 1_500_000


def test_the_words_follow_from_the_numbers(page):
    text = re.sub(r"</?code>", "", page.read_text())
    assert "is better than random_10" in text  # planted: bucket_70_80 by 0.09 nats, noise of 0.01
    assert "teacher_free is worse than vanilla" in text
    assert "3 seeds: a paired interval has 2 degrees of freedom" in text
    assert "The seed is the unit of replication" in text
    assert "Supervised tokens are not equal between methods" in text
    assert text.index("At equal steps a method") < text.index("At equal supervised tokens a method")


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-2+3", "@SUM(A1)", " =1", "\t=1"])
def test_a_cell_of_a_csv_file_is_no_formula(text, tmp_path):
    assert inert(text) == f"'{text}"
    write_sweep(tmp_path, methods=["vanilla"], seeds=[0])
    cell = read_sweep(tmp_path).cells[0]
    write_cells([cell._replace(budget=text)], tmp_path / "cells.csv")
    with (tmp_path / "cells.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["budget"] == f"'{text}"


@pytest.mark.parametrize("value", ["-0.5", "+3", "bucket_70_80", "", -0.5, None, "1e-4"])
def test_a_number_in_a_csv_file_stays_one(value):
    assert inert(value) == value


def test_figures_and_tables_lie_beside_the_page(page):
    names = {file.name for file in page.parent.iterdir()}
    for figure in ("bucket_curve_kl", "bucket_curve_agreement", "differences", "learning_curves", "deciles"):
        assert {f"steps_{figure}.svg", f"steps_{figure}.png"} <= names
    assert {"traces_0.svg", "traces_0.png", "tokens_methods.md", "cells.csv"} <= names
    tex = (page.parent / "steps_methods.tex").read_text()
    body = tex[tex.index(r"\midrule") : tex.index(r"\bottomrule")]
    assert r"bucket\_70\_80" in body and "_" not in body.replace(r"\_", "")
    assert {line.count("&") for line in body.splitlines()[1:]} == {11}
    table = (page.parent / "steps_methods.md").read_text().splitlines()
    assert len({line.count("|") for line in table if line.startswith("|")}) == 1
    with (page.parent / "cells.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 66


def test_ids_in_the_page_are_unique(page):
    ids = re.findall(r'\bid="([^"]+)"', page.read_text())
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", page.read_text())) <= set(ids)


def test_where_nothing_matters_no_difference_is_said(tmp_path):
    text = re.sub(r"</?code>", "", sweep_page(write_sweep(tmp_path, truth=flat_truth, rng=3)).read_text())
    assert "at this size, none is shown to be better or worse" in text
    assert "bucket_70_80 is not told apart from random_10 at this size: difference" in text
    assert "is not shown (Friedman&#39;s test" in text


def test_a_method_of_two_names_is_compared_once(tmp_path):
    write_sweep(tmp_path)
    before = results(sections(read_sweep(tmp_path))[0])[0]
    for seed in range(3):
        kl = before.table[method("topk_10")][seed]
        write_cell(tmp_path / "steps" / "bucket_90_100" / f"seed_{seed}", made("bucket_90_100", seed, kl))
    main = results(sections(read_sweep(tmp_path))[0])[0]
    assert (len(before.tested), len(main.tested), len(main.comparisons)) == (34, 32, 34)
    for control in ("vanilla", "random_10"):
        topk, bucket = (main.against(method(name), method(control)) for name in ("topk_10", "bucket_90_100"))
        assert topk is not None and bucket == topk._replace(method=method("bucket_90_100"))
    assert holm([c.p for c in main.tested]).tolist() == [c.corrected for c in main.tested]
    text = re.sub(r"</?code>", "", sweep_page(tmp_path).read_text())
    assert "bucket_90_100 and topk_10 chose the same tokens and count once" in text
    assert "14 ways of choosing" in text


def test_it_says_whether_bands_teach_their_own_part(tmp_path):
    """Planted: 9 of 10 bands gain 0.5 nats in their tenth and lose 0.1 elsewhere, one the other way round."""
    for name in ("vanilla", "random_10", *BANDS):
        cell = made(name, 0, 1.5)
        ends = method(name).band
        for d in range(10) if ends else ():
            change = -0.5 if 10 * d == ends[0] else 0.1
            cell["figures"]["after"][f"choice/kl/decile{d}"] += -change if name == "bucket_30_40" else change
        write_cell(tmp_path / "steps" / name / "seed_0", cell)
    text = said(sweep_page(tmp_path))
    assert "9 of 10 bands end closer to the teacher in their own part of its entropy (−0.40 nats on average)" in text
    assert "9 of 10 end farther from it in the rest (+0.08 nats)" in text


def test_one_seed_has_no_intervals_and_says_so(tmp_path):
    text = sweep_page(write_sweep(tmp_path, seeds=[7])).read_text()
    assert "One seed: there are no intervals and no tests" in text
    assert "There are too few seeds to tell any method from random tokens" in text
    assert "nan" not in said(tmp_path / "report" / "index.html")


def test_without_a_random_control_nothing_is_claimed(tmp_path):
    text = sweep_page(write_sweep(tmp_path, methods=["vanilla", "bucket_70_80"])).read_text()
    assert "There is no random control of the same share in this sweep" in text
    assert sweep_page(write_sweep(tmp_path / "lonely", methods=["topk_20"])).exists()


def test_dirty_checkouts_mixed_commits_and_mixed_settings_are_warned_of(tmp_path):
    path = write_sweep(tmp_path, methods=["vanilla", "random_10"], changed=True)
    other = made("random_10", 0, 1.5, commit="d" * 40)
    other["config"] = {**other["config"], "trainer": {"max_steps": 90}}
    write_cell(path / "steps" / "random_10" / "seed_0", other)
    text = sweep_page(path).read_text()
    assert "5 of 6 runs had uncommitted changes" in text
    assert "2 commits (ccccccccc, ddddddddd)" in text
    assert "differ between runs: trainer.max_steps" in text


def test_a_signal_that_nothing_looks_at_makes_no_method_and_another_loss_does(tmp_path):
    write_sweep(tmp_path, methods=["vanilla", "random_10", "bucket_70_80"])
    for seed in range(3):
        cell = made("vanilla", seed, 1.5)
        cell["config"] |= {"signal": {"_target_": "ekd.signal.kl.KL"}}
        write_cell(tmp_path / "steps" / "vanilla" / f"seed_{seed}", cell)
    page = sweep_page(tmp_path)
    assert "differ between runs" not in page.read_text() and "vanilla-" not in said(page)
    for seed in range(3):
        cell = made("bucket_70_80", seed, 1.0)
        loss = {"_target_": "ekd.loss.reverse_kl.ReverseKL"}
        cell["config"] |= {"loss": loss, "student": {**cell["config"]["student"], "loss": loss}}
        write_cell(tmp_path / "steps" / "bucket_70_80" / f"seed_{seed}", cell)
    text = said(sweep_page(tmp_path))
    assert "bucket_70_80-reverse_kl" in text and "There is no random control of the same share in this sweep" in text


def test_any_group_may_vary_and_its_parts_are_columns(tmp_path):
    """Two signals times two losses, and random tokens that were run under each signal, which changes nothing."""
    losses = {"forward_kl": "ForwardKL", "reverse_kl": "ReverseKL"}
    signals = {"teacher_entropy": "TeacherEntropy", "student_entropy": "StudentEntropy"}
    for place, (loss, signal, name, seed) in enumerate(product(losses, signals, ("topk_20", "random_20"), (0, 1))):
        cell = made(name, seed, 1.5 + 0.1 * seed + 0.2 * (loss == "reverse_kl"))
        cell["config"] |= {
            "loss": {"_target_": f"ekd.loss.{loss}.{losses[loss]}"},
            "signal": {"_target_": f"ekd.signal.{signal}.{signals[signal]}"},
        }
        write_cell(tmp_path / str(place), cell)
    section = sections(read_sweep(tmp_path))[0]
    assert [one.name for one in section.methods] == [
        *("random_20", "random_20-reverse_kl", "topk_20"),
        *("topk_20-reverse_kl", "topk_20-student_entropy", "topk_20-student_entropy-reverse_kl"),
    ]
    controls = {one.name: str(section.control(one)) for one in section.methods if one.selects}
    assert (
        controls == {name: f"random_20{'-reverse_kl' * ('reverse' in name)}" for name in controls}
        and len(controls) == 4
    )
    table = method_table(section, results(section))
    assert table.head[1:3] == ["signal", "loss"]
    assert [row[1].text for row in table.rows] == ["–", "–", "teacher_entropy", "teacher_entropy"] + [
        "student_entropy"
    ] * 2


def test_what_a_method_was_run_under_twice_divides_the_page(tmp_path):
    for lr, name, seed in product((0.001, 0.0001), ("vanilla", "random_10", "bucket_70_80"), (0, 1)):
        cell = made(name, seed, 1.5)
        cell["config"]["student"] |= {"optimizer": {"lr": lr}}
        write_cell(tmp_path / f"{lr}_{name}_{seed}", cell)
    assert [(part.title, len(part.cells)) for part in sections(read_sweep(tmp_path))] == [
        ("Equal steps, student.optimizer.lr=0.0001", 6), ("Equal steps, student.optimizer.lr=0.001", 6),
    ]  # fmt: skip
    text = sweep_page(tmp_path).read_text()
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_one_run_found_twice_with_other_figures_is_refused(tmp_path):
    write_cell(tmp_path / "a", made("vanilla", 0, 1.5))
    write_cell(tmp_path / "b", made("vanilla", 0, 1.6))
    with pytest.raises(ValueError, match="are both vanilla with seed 0, under the same settings"):
        read_sweep(tmp_path)


def test_a_student_that_still_learns_is_warned_of(tmp_path):
    text = sweep_page(write_sweep(tmp_path, methods=["vanilla"])).read_text()
    assert "Training had not come to an end: held-out KL still fell by" in text  # 7% of its way in ten steps
    for file in tmp_path.rglob("metrics.csv"):
        file.write_text("step,train/supervised_tokens,val/kl\n0,,16\n29,,1.2001\n59,,1.2\n")
    assert "had not come to an end" not in sweep_page(tmp_path).read_text()


def test_a_budget_whose_cells_all_failed_is_named(tmp_path):
    write_sweep(tmp_path, methods=["vanilla"])
    lost = tmp_path / "tokens" / "random_10" / "seed_0"
    lost.mkdir(parents=True)
    (lost / "failed.txt").write_text("the disk is full")
    text = sweep_page(tmp_path).read_text()
    assert "the disk is full" in text and "<td>tokens</td><td>failed</td>" in text
    (lost / "failed.txt").write_text("")  # a full disk leaves this
    assert outcome(tmp_path)[1] == 1


def test_seeds_that_end_at_different_steps_share_their_last_validation():
    ends = [Curve([0, 29, last], [0, 900, 1200 + last], [16, 4, 3 + last / 100]) for last in (39, 40, 41)]
    assert averaged(ends) == ([0, 29, 40], [0, 900, 1240], pytest.approx([16, 4, 3.4]))


@pytest.mark.parametrize(
    ("methods", "seeds", "sentence"),
    [
        (["vanilla", "random_10"], range(3), "No method of this sweep chooses tokens"),
        (["vanilla", "topk_20", "random_10"], range(3), "There is no random control of the same share"),
        (["random_20", "topk_20"], range(1), "There are too few seeds"),
        (["random_20", "topk_20"], range(3), "1 way of choosing was compared"),
    ],
)
def test_the_headline_gives_the_true_reason(tmp_path, methods, seeds, sentence):
    assert sentence in sweep_page(write_sweep(tmp_path, methods=methods, seeds=seeds)).read_text()


def test_what_is_needed_to_be_shown_first_is_told(tmp_path):
    """3 seeds, 34 comparisons: Student's t at 0.05 / 34 is 26.1 standard errors, where one alone needs 4.3."""
    main = results(sections(read_sweep(write_sweep(tmp_path)))[0])[0]
    c = main.comparisons[0]
    assert c.corrected_half(34) / (c.high - c.difference) == pytest.approx(stats.t.ppf(1 - 0.025 / 34, 2) / 4.302653)
    assert "to be the first shown of 34 comparisons it has to be about" in sweep_page(tmp_path).read_text()


def test_a_diverged_run_is_a_failure(tmp_path):
    write_sweep(tmp_path, methods=["vanilla"])
    write_cell(tmp_path / "steps" / "random_10" / "seed_0", made("random_10", 0, float("nan")))
    assert "training diverged" in read_sweep(tmp_path).lost[0].why


def test_folders_without_a_finished_cell_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="is no folder"):
        read_sweep(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no run at all"):
        read_sweep(tmp_path)
    cell = write_cell(tmp_path / "vanilla" / "seed_0", made("vanilla", 0, 1.0))
    (cell / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match="none of them finished; the first: metrics"):
        read_sweep(tmp_path)


def test_earlier_cells_and_the_report_itself_are_no_cells(tmp_path):
    write_sweep(tmp_path, methods=["vanilla"], seeds=[0])
    write_cell(tmp_path / "steps" / "vanilla" / "earlier-1", made("vanilla", 0, 9.0))
    sweep_page(tmp_path)
    assert len(read_sweep(tmp_path).cells) == 1


@pytest.mark.parametrize(
    "text",
    [
        "hydra: [", "[1]", "hydra: 3", "hydra: {sweeper: []}", "hydra: {sweeper: {params: [1]}}", "\xff", "[" * 5000,
        "hydra: {overrides: {task: seed=1}}", "!!python/object/apply:os.system [true]", "a: \x1b",
    ],
)  # fmt: skip
def test_a_damaged_multirun_yaml_is_one_sentence(text, tmp_path):
    write_sweep(tmp_path, methods=["vanilla"], seeds=[0])
    (tmp_path / "multirun.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"multirun\.yaml is damaged \(.*delete it") as error:
        read_sweep(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seeds", ["range(999999999)", "range(0,9999999999999)", "9" * 5000, "²", "a"])
def test_seeds_that_no_sweep_has_are_not_planned(seeds, tmp_path):
    write_sweep(tmp_path, methods=["vanilla"], seeds=[0])
    (tmp_path / "multirun.yaml").write_text(f"hydra: {{sweeper: {{params: {{method: vanilla, seed: '{seeds}'}}}}}}")
    assert read_sweep(tmp_path).planned == []


def test_planned_cells_come_from_multirun_yaml(tmp_path):
    write_sweep(tmp_path, methods=["vanilla"], seeds=[0])
    asked = {
        "sweeper": {"params": {"method": "vanilla,random_10", "seed": "0,1"}},
        "overrides": {"task": ["seed=range(3)"]},
    }
    (tmp_path / "multirun.yaml").write_text(json.dumps({"hydra": asked}))
    names = ("vanilla", "random_10")
    assert read_sweep(tmp_path).planned == [("steps", name, seed) for name in names for seed in range(3)]
    write_sweep(tmp_path, methods=["vanilla"], seeds=[0], budget="tokens")  # of an earlier start: nothing is missing
    assert [len(part.missing) for part in sections(read_sweep(tmp_path))] == [5, 0]
    shutil.rmtree(tmp_path / "tokens")
    assert re.search(r"cells finished</dt><dd>1 <small>of 6", sweep_page(tmp_path).read_text())


def test_a_resumed_cells_curve_joins_its_parts(tmp_path):
    folder = write_cell(tmp_path / "vanilla" / "seed_0", made("vanilla", 0, 1.0))
    head = "step,train/supervised_tokens,val/kl\n"
    (folder / "csv.1").mkdir()
    (folder / "csv.1" / "metrics.csv").write_text(head + "0,,16\n9,100,\n9,,8\n19,,99\n29,,")
    (folder / "csv" / "metrics.csv").write_text(head + "19,200,\n19,,4\n29,,3\n")
    line = curve(read_sweep(tmp_path).cells[0])
    assert (line.steps, line.kl) == ([0, 9, 19, 29], [16, 8, 4, 3])
    assert line.tokens[:3] == [0, 100, 200]


def test_a_control_is_found_by_the_share_that_was_measured():
    shares = {method(name): share(name) for name in METHODS}
    assert control_of(method("bucket_75_95"), shares) == method("random_20")
    assert control_of(method("topk_15"), shares) == method("random_15")
    assert control_of(method("bucket_5_20"), shares | {method("bucket_5_20"): 0.5}) is None, (
        "it took half: none is near"
    )
    assert control_of(method("bucket_5_20"), shares | {method("bucket_5_20"): 0.19}) == method("random_20")
    tiles = tiling(shares)
    assert tiles[0] == method("bucket_0_10") and len(tiles) == 10
    assert [one.name for one in ordered(reversed(list(shares)))] == METHODS
    assert len(comparisons_of(shares)) == 19 + 15


def test_a_hundred_cells_are_quick(tmp_path):
    write_sweep(tmp_path, seeds=range(5))
    began = monotonic()
    sweep_page(tmp_path)
    assert monotonic() - began < 30  # 4 seconds on a quiet machine


def test_the_page_of_one_run(tmp_path):
    run = write_cell(tmp_path / "run", made("bucket_70_80", 3, 1.2, changed=True))
    prompt = "<|im_start|>system\nBe\n<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    answer = {"problem_id": "p1", "sample": 0, "finish": "stop", "tokens": 9, "reference": "4", "text": "<i>4</i>"}
    answer |= {"prompt": prompt, "endless": False, "seconds": 0.1}
    wrong = {**answer, "status": "wrong", "extracted": "5"}
    right = {**answer, "status": "correct", "extracted": "4", "sample": 1}
    (run / "answers.jsonl").write_text(f"{json.dumps(wrong)}\n{json.dumps(right)}\n{{")
    assert "<i>" not in run_page(run).read_text()
    assert "Held-out KL to the teacher went from 16.000 to 1.200 nats a token" in said(run_page(run))
    first, second = unpacked(run_page(run))
    assert [one[3][0][0] for one in (first, second)] == ["right", "wrong"]
    assert first[:3] == ["p1, answer 2", "4", "2 + 2?"] and first[3][0][3] == "<i>4</i>"
    before = {**answer, "status": "wrong", "extracted": "9", "sample": 1, "endless": True, "text": "9 9 9"}
    (run / "answers_before.jsonl").write_text(f"{json.dumps(before | {'finish': 'length'})}\n")
    sure = {**right, "text": "a <b>", "pieces": ["a", " <b>", ""], "entropy": [0.0, 1.0, 0.5]}
    blank = {**wrong, "text": " \n"}
    (run / "answers.jsonl").write_text(f"{json.dumps(blank)}\n{json.dumps(sure)}\n")
    page = run_page(run)
    first, second = unpacked(page)
    assert first[3] == [
        ["wrong", "said 9; 9 tokens, repeats itself without end", 1, "9 9 9"],
        ["right", "said 4; 9 tokens", 0, ["a", " <b>"], [0.0, 1.0]],
    ]
    assert second[3] == [None, ["wrong", "said 5; 9 tokens, blank", 1, ""]]
    text = page.read_text()
    assert re.findall(r"<option[^>]*>([^<]*)", text) == [
        "all 2", "only student after right: 1", "none right: 1",
        "of any ending", "one is blank: 1", "one repeats itself without end: 1", "one is cut off: 1",
    ]  # fmt: skip
    assert "One run is one seed" in text and "uncommitted changes" in text
    (run / "metrics.json").rename(run / "run.json")
    with pytest.raises(ValueError, match="not finished"):
        run_page(run)
    with pytest.raises(ValueError, match="holds no training run"):
        run_page(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def unpacked(page: Path) -> list:
    """The problems of a page, as its script finds them."""
    blocks = re.findall(r"data-block>([^<]*)</script>", page.read_text())
    return [one for block in blocks for one in json.loads(gzip.decompress(base64.b64decode(block)))]


def test_the_page_module_is_light_to_import():
    heavy = "import sys, ekd.report.page; print(sorted({'matplotlib', 'scipy', 'jinja2', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", heavy], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_door(sweep, tmp_path):
    def door(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ekd.report", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    done = door(f"sweep={sweep}", f"out={tmp_path / 'elsewhere'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "elsewhere" / "index.html").exists()
    mine = tmp_path / "failed.txt"
    mine.write_text("of mine")
    command = [sys.executable, "-m", "ekd.report", f"sweep={sweep}", f"out={tmp_path / 'again'}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True, timeout=120)
    assert mine.read_text() == "of mine"
    wrong = [
        ((), "nothing to report on"),
        (("sweep=a", "traces=b"), "two pages"),
        (("sweep=a", "limit=3", "dataset=gsm8k"), "limit=3 dataset=gsm8k goes with traces=PATH only"),
    ]
    for words, sentence in wrong:
        refused = door(*words)
        assert refused.returncode == 2 and sentence in refused.stderr and refused.stderr.count("\n") == 1


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_in_a_browser(browser, page, tmp_path, size, dark):  # noqa: F811
    look(browser, size=size, dark=dark)
    open_page(browser, page)
    assert complaints(browser) == []
    assert too_wide(browser) == 0
    curve_of_bands = browser.find_element("css selector", 'svg[aria-label*="by percentile band"]')
    assert curve_of_bands.rect["width"] > 300 and curve_of_bands.rect["height"] > 200
    ink = browser.execute_script("return getComputedStyle(arguments[0].querySelector('text')).fill", curve_of_bands)
    brightness = sum(int(part) for part in re.findall(r"\d+", ink)[:3]) / 3
    assert brightness > 150 if dark else brightness < 100, "the figure follows the colour scheme"
    assert screenshot(browser, tmp_path / "page.png").stat().st_size > 50_000


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_headline_and_the_curve_are_on_the_first_screen(browser, page, size):  # noqa: F811
    look(browser, size=size)
    open_page(browser, page)
    place = "const box = document.querySelector(arguments[0]).getBoundingClientRect(); return [box.top, box.bottom]"
    headline = browser.execute_script(place, ".headline")
    curve_of_bands = browser.execute_script(place, "svg.figure")
    assert 0 < headline[0] < headline[1] <= curve_of_bands[0] < curve_of_bands[1] <= size[1]
    assert not browser.execute_script("return document.querySelector('details.care').open")


def test_rows_sort_by_number_and_back_and_what_has_none_comes_last(browser, page):  # noqa: F811
    look(browser)
    open_page(browser, page)
    column = """const table = document.querySelector("table"), heads = [...table.tHead.rows[0].cells];
      const at = heads.findIndex((one) => one.textContent.startsWith(arguments[0]));
      heads[at].querySelector("button").click();
      return [heads[at].ariaSort, ...[...table.tBodies[0].rows].map((row) => row.cells[at].textContent)]"""
    for head in ("held-out KL", "minus random of the same share"):
        texts = [browser.execute_script(column, head) for _ in range(2)]
        for (way, *cells), sign in zip(texts, (1, -1), strict=True):
            found = [re.match(r"[+-]?[\d.]+", cell.replace("−", "-").replace(",", "")) for cell in cells]
            numbers = [sign * float(one[0]) for one in found if one]
            assert way == {1: "ascending", -1: "descending"}[sign] and len(numbers) > 10
            assert numbers == sorted(numbers) and all(found[: len(numbers)])


def test_pointing_at_a_band_tells_its_value(browser, page):  # noqa: F811
    look(browser)
    open_page(browser, page)
    told = """const one = document.querySelector('svg.figure .point[data-value^="bucket_70_80:"]');
      const box = one.getBoundingClientRect(), at = { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2 };
      one.closest("svg").dispatchEvent(new PointerEvent("pointermove", { ...at, bubbles: true }));
      return document.querySelector("output.said").textContent"""
    assert re.fullmatch(r"bucket_70_80: 1\.\d+ nats \[1\.\d+, 1\.\d+\], 3 seeds", browser.execute_script(told))


def test_every_row_leads_to_its_runs_and_a_command_has_a_button(browser, sweep, tmp_path):  # noqa: F811
    run_page(sweep / "steps" / "bucket_70_80" / "seed_1")
    open_page(browser, sweep_page(sweep, tmp_path / "out"))
    links = browser.find_elements("css selector", "td a")
    assert [link.text for link in links] == ["1"]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", links[0])
    assert len(browser.find_elements("css selector", "button.copy")) == 1
    browser.get(links[0].get_attribute("href"))
    assert "bucket_70_80" in browser.find_element("css selector", "body").text
    shutil.rmtree(sweep / "steps" / "bucket_70_80" / "seed_1" / "report")


def test_a_sweep_that_runs_is_watched_until_its_last_cell(tmp_path, monkeypatch):
    path = write_sweep(tmp_path / "sweep", methods=["vanilla", "random_10"], seeds=[0])
    last = path / "steps" / "random_10" / "seed_0"
    whole = (last / "metrics.json").read_text()
    (last / "metrics.json").rename(last / "run.json")
    words = "method: vanilla,random_10\n      seed: '0'\n"
    (path / "multirun.yaml").write_text(f"hydra:\n  sweeper:\n    params:\n      {words}  overrides:\n    task: []\n")
    naps = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:  # nothing new at the first look
            (last / "metrics.json").write_text(whole)

    monkeypatch.setattr(pages, "sleep", nap)
    seen = [page.read_text() for page in watch_sweep(path)]
    assert len(seen) == 2 and len(naps) == 2
    assert 'http-equiv="refresh"' in seen[0] and 'http-equiv="refresh"' not in seen[1]
    assert "random_10" not in re.search(r"<table.*?</table>", seen[0], re.DOTALL)[0]


def test_a_method_is_brought_forward_with_the_keyboard(browser, page):  # noqa: F811
    look(browser)
    open_page(browser, page)
    select = browser.find_element("css selector", "figure[data-lines] select")
    select.send_keys("vanilla")
    dim = "return document.querySelectorAll('figure[data-lines] [data-series=\"%s\"].dim').length"
    assert browser.execute_script(dim % "vanilla") == 0
    assert browser.execute_script(dim % "bucket_70_80") > 0
    assert browser.execute_script("return [...document.querySelectorAll('svg.figure')].every(s => s.ariaLabel)")
    assert browser.execute_script("return [...document.querySelectorAll('table')].every(t => t.caption && t.tHead)")


def relaunched(path: Path, seeds: range, **changes: object) -> None:
    for file in path.rglob("metrics.json"):
        content = json.loads(file.read_text())
        if content["config"]["seed"] in seeds:
            file.write_text(json.dumps(content | changes))


def test_seeds_of_another_launch_are_said_with_their_dates(tmp_path):
    write_sweep(tmp_path, seeds=range(6), launched="2026-03-01T10:00:00+00:00")
    assert "launches" not in said(sweep_page(tmp_path))
    relaunched(tmp_path, range(3, 6), launched="2026-03-02T09:30:00+00:00")
    text = said(sweep_page(tmp_path))
    assert (
        "The seeds come from 2 launches (seeds 0, 1, 2 on 2026-03-01 10:00 UTC; seeds 3, 4, 5 on 2026-03-02 09:30 UTC)"
        in text
    )
    file = next(tmp_path.rglob("vanilla/seed_3/metrics.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"launched": "2026-03-01T10:00:00+00:00"}))
    assert "seeds 0, 1, 2, 3 on 2026-03-01" in said(sweep_page(tmp_path)), "the first launch had begun with it"


def test_runs_that_do_not_say_when_are_told_apart_by_their_commands(tmp_path):
    write_sweep(tmp_path, seeds=range(4), command=["train", "-m", "seed=0,1,2"])
    assert "launches" not in said(sweep_page(tmp_path))
    relaunched(tmp_path, range(3, 4), command=["train", "-m", "seed=3"])
    assert "2 launches (seeds 0, 1, 2 by a command of their own; seed 3 by" in said(sweep_page(tmp_path))


def test_a_control_that_takes_another_share_is_said(tmp_path):
    """Scores of which half are 0: the band between two quantiles of 0 takes all of them."""
    write_sweep(tmp_path, methods=["vanilla", "random_10", "bucket_20_30", "bucket_70_80"])
    for file in tmp_path.rglob("bucket_20_30/*/metrics.json"):
        content = json.loads(file.read_text())
        content["figures"]["train"]["selected"] = 0.5
        file.write_text(json.dumps(content))
    text = re.sub(r"</?code>", "", said(sweep_page(tmp_path)))
    assert "bucket_20_30 took 50.0% of the tokens and no random run here took about as many" in text
    assert "selector=random selector.k_percent=50" in text
    assert text.count("the control to judge it by") == 1
    for file in tmp_path.rglob("bucket_70_80/*/metrics.json"):
        content = json.loads(file.read_text())
        content["figures"]["train"]["selected"] = 0.107
        file.write_text(json.dumps(content))
    text = re.sub(r"</?code>", "", said(sweep_page(tmp_path)))
    assert "bucket_70_80 took 10.7% of the tokens and its control random_10 10.0%" in text


HOSTILE = "</script><img src=x onerror=alert(1)>\u2028$x^{ \\input{/etc/passwd} | [/red] \"'&lt;{{ 7*7 }}"


def test_a_hostile_run_and_sweep_are_text_in_every_page_and_file(tmp_path):
    words = {"traces": HOSTILE, "commit": HOSTILE, "command": ["train", HOSTILE], "versions": {HOSTILE: HOSTILE}}
    cell = made("vanilla", 0, 1.5, **words)
    cell["config"] |= {HOSTILE: HOSTILE, "selector": {"_target_": f"a.{HOSTILE}", "values": HOSTILE}}
    path = tmp_path / "sweep" / "steps"
    run = write_cell(path / "evil" / "seed_0", cell)
    write_cell(path / "random_10" / "seed_0", made("random_10", 0, 1.6))
    (path / "lost" / "seed_0").mkdir(parents=True)
    (path / "lost" / "seed_0" / "failed.txt").write_text(HOSTILE)
    for page in (run_page(run), sweep_page(tmp_path / "sweep")):
        text = page.read_text()
        assert text.count("<script>") == text.count("</script>") == 1
        assert "<img" not in text
        assert "onerror" in text  # it is there, as words
        for svg in page.parent.glob("*.svg"):
            assert "<img" not in svg.read_text()
            xml.etree.ElementTree.parse(svg)
        for file in page.parent.glob("*.tex"):
            assert "\\input" not in file.read_text()


def test_only_the_pages_own_script_may_run_and_nothing_is_fetched(page):
    text = page.read_text()
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy"\s+content="([^"]+)"', text)[1]
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}';" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1]
    assert text.index("Content-Security-Policy") < text.index("<title>")


@pytest.mark.parametrize("name", ["report", "report/index.html"])
def test_a_page_is_never_written_through_a_link(tmp_path, name):
    cell = write_cell(tmp_path / "sweep" / "steps" / "vanilla" / "seed_0", made("vanilla", 0, 1.5))
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "index.html").write_text("mine")
    for folder, write in ((cell, run_page), (tmp_path / "sweep", sweep_page)):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(tmp_path / "precious" / ("" if name == "report" else "index.html"))
        with pytest.raises(ValueError, match="is a link"):
            write(folder)
    assert (tmp_path / "precious" / "index.html").read_text() == "mine"


@pytest.mark.parametrize("change", [{"budget": "x"}, {"budget": ["steps"]}])
def test_a_budget_that_is_none_is_named(tmp_path, change):
    write_cell(tmp_path / "steps" / "vanilla" / "seed_0", made("vanilla", 0, 1.5))
    write_cell(tmp_path / "steps" / "topk_10" / "seed_0", made("topk_10", 0, 1.5, **change))
    assert "there is no budget" in read_sweep(tmp_path).lost[0].why
