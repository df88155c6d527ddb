"""The documents' words are true: their commands compose, their example is a selector, their links lead somewhere."""

from __future__ import annotations

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
        c for c in shown if not re.search(r"\.\.\.|=NAME|selector=first", c)
    )  # placeholders, the ten-line example


@pytest.mark.parametrize("command", commands())
def test_every_documented_command_composes(command):
    _, _, door, *words = shlex.split(command)
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


def test_the_selector_of_ten_lines_is_one(tmp_path):
    code, config = re.findall(r"```(?:python|yaml)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    (tmp_path / "first.py").write_text(code)
    space = runpy.run_path(str(tmp_path / "first.py"), run_name="builtins")
    values = {k: v for k, v in yaml.safe_load(config).items() if k != "_target_"}
    weight = space["First"](**values | {"rows": 2})(torch.randn(7), torch.tensor([0, 0, 0, 1, 3, 3, 3]))
    assert weight.tolist() == [1, 1, 0, 1, 1, 1, 0]
