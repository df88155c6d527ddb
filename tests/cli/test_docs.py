"""The documents' words are true: their commands compose, their example is a selector, their links lead somewhere."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
from pathlib import Path

import hydra
import pytest
import torch
import yaml

from ekd.cli.door import CONF

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DOORS = "train|trace|evaluate|export|report|chat"


def commands() -> list[str]:
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        found += re.findall(rf"python -m ekd\.(?:{DOORS})[^`|\n#]*", text)
    shown = {" ".join(command.split()) for command in found}
    return sorted(
        c for c in shown if not re.search(r"\.\.\.|=NAME|selector=first|selector=both_ends", c)
    )  # placeholders, the selectors that the pages write


@pytest.mark.parametrize("command", commands())
def test_every_documented_command_composes(command):
    _, _, door, *words = shlex.split(command)
    if words[:1] == ["compare"]:  # it has no configuration, and one word with a value
        assert {word for word in words if "=" in word} <= {"page=true"}
        return
    values = [word for word in words if "=" in word]
    if "-m" in words:  # a sweep: its first job
        values = [word if "[" in word else word.split(",")[0] for word in values]
    room = next((word for word in words if (CONF / f"{word}.yaml").exists()), door.removeprefix("ekd."))
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        assert hydra.compose(room, values)


def entries() -> list[str]:
    """What docs/original.md has in place of the old flags, as overrides of ekd.train."""
    lines = [line for line in (ROOT / "docs" / "original.md").read_text().splitlines() if line.startswith("| `")]
    spans = [span for line in lines for span in re.findall(r"`([^`]+)`", line.strip("| ").rpartition(" | ")[2])]
    return [span for span in spans if "=" in span and not span.startswith(("python", "-m", "plan"))]


@pytest.mark.parametrize("entry", entries())
def test_what_replaces_an_old_flag_composes(entry):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        assert hydra.compose("train", [w for w in shlex.split(entry) if "=" in w and not w.startswith("hydra.")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_make_targets_named_in_the_docs_exist():
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"(?:^ {4}|`)make ([a-z]+)", page.read_text(), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_tutorials_selector_is_one_and_its_words_compose(tmp_path):
    page = (ROOT / "docs" / "own_selector.md").read_text()
    code, config = re.findall(r"```(?:python|yaml)\n(.*?)```", page, re.DOTALL)
    (tmp_path / "settings" / "selector").mkdir(parents=True)
    (tmp_path / "settings" / "selector" / "both_ends.yaml").write_text(config)
    (tmp_path / "both_ends.py").write_text(code)
    made = runpy.run_path(str(tmp_path / "both_ends.py"), run_name="builtins")["BothEnds"](k_percent=20)
    score, sequence = torch.tensor([3.0, 1, 2, 5, 4, 7, 9]), torch.tensor([0, 0, 0, 0, 0, 2, 2])
    assert made(score, sequence).tolist() == [0, 1, 0, 1, 0, 1, 1]
    with pytest.raises(ValueError, match="at most 50"):
        type(made)(k_percent=60)
    commands = re.findall(r"ekd\.train (?:-m )?--config-dir settings (.*)", page)
    assert len(commands) == 3
    for words in commands:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            place = f"hydra.searchpath=[file://{tmp_path / 'settings'}]"
            found = hydra.compose("train", [place, *(word.split(",")[0] for word in words.split())])
        assert found.selector._target_ == "mine.both_ends.BothEnds"


def sentences() -> list[re.Pattern[str]]:
    """What ekd's code may say, its values left open; shorter than that is in too many sentences."""
    found = []
    for file in (ROOT / "ekd").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            fixed = [part.value if isinstance(part, ast.Constant) else None for part in parts]
            if sum(len(text) for text in fixed if isinstance(text, str)) >= 30:
                found.append(re.compile(".+?".join(re.escape(t) for t in fixed if isinstance(t, str)), re.DOTALL))
    return found


def test_the_sentences_of_the_page_on_trouble_are_ekds():
    quotes = re.findall(r"^> (.+(?:\n> .+)*)", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(quotes) >= 6
    known = sentences()
    for quote in (" ".join(quote.replace("\n> ", " ").split()) for quote in quotes):
        assert any(template.search(quote) for template in known), quote


def test_the_selector_of_ten_lines_is_one(tmp_path):
    code, config = re.findall(r"```(?:python|yaml)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    (tmp_path / "first.py").write_text(code)
    space = runpy.run_path(str(tmp_path / "first.py"), run_name="builtins")
    values = {k: v for k, v in yaml.safe_load(config).items() if k != "_target_"}
    weight = space["First"](**values | {"rows": 2})(torch.randn(7), torch.tensor([0, 0, 0, 1, 3, 3, 3]))
    assert weight.tolist() == [1, 1, 0, 1, 1, 1, 0]
