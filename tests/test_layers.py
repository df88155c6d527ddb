"""Who may import whom: no arrow runs up, none between variant rooms, and none in a circle."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ekd"
# From the ground up, as CONTRIBUTING.md says it. Within a line, what comes later may import what comes before, but for
# rooms joined by "|", which do not know each other.
LAYERS = (
    ("types", "defaults", "renamed", "method", "outside", "files", "mistakes", "models", "translate"),
    ("dataset | teacher | signal | selector | loss | store | engine",),
    ("data", "distill | eval", "export"),
    ("report", "chat", "cli", "dashboard", "commands", "session"),
)
VARIANTS = {"dataset", "teacher", "signal", "selector", "loss"}  # known above only by their protocols
COMMANDS = {"train", "trace", "evaluate"}  # and every __main__.py
CONFIGURED = {"hydra", "omegaconf", "wandb"}  # the faces' own
FLAT = 12  # modules that may lie in ekd/ itself
LINES = 300  # of a file
BODY = 50  # lines of a function, its signature and docstring included
NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
SHARED_NAMES = {  # the public names that stand for two things, and why a second word would not cure it
    "main": "every command is entered by it",
    "HF": "named after its yaml, hf, in teacher and generator alike",
    "JSD": "named after its yaml, as a signal and as a loss",
    "ReverseKL": "named after its yaml, as a signal and as a loss",
    "Weighted": "named after its yaml, as a signal and as a loss",
}


def modules() -> dict[str, Path]:
    """ekd.models.head -> its file."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()


def imported(file: Path) -> set[str]:
    """Whole dotted names, also of imports inside functions and those for types alone."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in inner if name in MODULES} or {node.module}
    return found


def room(name: str) -> str:
    """ekd.models.head -> models; a command, wherever it lies, -> commands."""
    parts = name.split(".")
    if parts[-1] == "__main__" or (len(parts) == 2 and parts[1] in COMMANDS):
        return "commands"
    return parts[1] if len(parts) > 1 else "face"


def floor(name: str) -> tuple[int, int]:
    for height, line in enumerate(LAYERS):
        for place, rooms in enumerate(line):
            if room(name) in rooms.split(" | "):
                return height, place
    raise AssertionError(f"{name} is in no layer: put its room into CONTRIBUTING.md's table and into LAYERS here")


def arrows() -> list[tuple[str, str]]:
    found = [(name, other) for name, file in MODULES.items() for other in imported(file)]
    return [(a, b) for a, b in found if b in MODULES and a != b and b != "ekd"]


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) != "face"])
def test_every_module_stands_on_a_floor_and_imports_none_above(name: str) -> None:
    height, place = floor(name)
    for other in (b for a, b in arrows() if a == name):
        if room(other) == room(name):
            continue
        assert floor(other) < (height, place), f"{name} imports {other}, which stands no lower"
        if height == 2:
            assert room(other) not in VARIANTS, f"{name} knows {room(other)} by its protocol only, not {other}"


def test_no_import_runs_in_a_circle() -> None:
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for one, other in arrows():
        graph[one].add(other)
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_only_the_faces_know_hydra_and_wandb() -> None:
    for name, file in MODULES.items():
        known = {other.split(".")[0] for other in imported(file)} & CONFIGURED
        if name == "ekd":  # registers what conf/ calls, so that hydra.compose works without a command of ekd
            known -= {"omegaconf"}
        assert not known or floor(name)[0] == 3, f"{name} imports {', '.join(sorted(known))}"


def test_few_modules_lie_flat() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= FLAT


@pytest.mark.parametrize("name", MODULES)
def test_no_file_and_no_function_is_long(name: str) -> None:
    text = MODULES[name].read_text()
    assert len(text.splitlines()) <= LINES
    made = [one for one in ast.walk(ast.parse(text)) if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert not [one.name for one in made if (one.end_lineno or 0) - one.lineno >= BODY]


def test_a_public_name_has_one_meaning() -> None:
    homes: dict[str, set[str]] = {}
    for name, file in MODULES.items():
        made = [one for one in ast.parse(file.read_text()).body if isinstance(one, NAMED) and one.name[0] != "_"]
        for one in made:
            homes.setdefault(one.name, set()).add(name)
    twice = {name: sorted(found) for name, found in homes.items() if len(found) > 1}
    unknown = {name: found for name, found in twice.items() if name not in SHARED_NAMES}
    assert not unknown, f"give all but one a second word that says what it is: {unknown}"
    assert set(twice) == set(SHARED_NAMES), "no longer shared: take it out of SHARED_NAMES"


def test_the_table_for_people_names_every_room() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text()
    rooms = {room(name) for name in MODULES} - {"face", "commands"} | COMMANDS
    assert not [one for one in sorted(rooms) if one not in table]
