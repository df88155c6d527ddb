"""ekd from Python: without `hydra.main`, as docs/python.md says it, and in the notebooks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ekd.method import CONF
from ekd.session.notebook import compose, train_here

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def test_hydra_compose_alone_will_do(tmp_path):
    """In a process of its own, in which nobody has registered anything but `import ekd`."""
    code = (
        "import ekd, hydra\n"
        f"with hydra.initialize_config_dir({str(CONF)!r}, version_base='1.3'):\n"
        "    config = hydra.compose('train', ['experiment=tiny', 'selector=topk'])\n"
        "print(hydra.utils.instantiate(config.selector), config.student.optimizer.lr)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "TopK(k_percent=20, scope='sequence') 0.001\n", done.stdout + done.stderr


def test_a_run_from_python_is_the_run_of_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = list(sys.argv)
    words = ("experiment=tiny", "trainer.max_steps=2", "benchmark.problems=0", "selector=topk")
    outcome = train_here(*words, folder="run")
    assert outcome["method"] == "topk_20" and outcome["command"][1:] == list(words) and sys.argv == told
    assert (tmp_path / "run" / "student" / "config.json").exists() and (tmp_path / "run" / "report").exists()
    assert "hydra" not in outcome["config"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["selectr=topk"], "the configuration has no 'selectr'"),
        (["seed=0,1"], "has several values"),
        (["trainer.max_steps=x"], "trainer.max_steps"),
    ],
)
def test_what_the_command_would_say_comes_as_a_sentence(words, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        compose("experiment=tiny", *words)


@pytest.mark.filterwarnings("ignore")
def test_the_page_about_python_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL))
    exec(compile(code, "docs/python.md", "exec"), {"__name__": "page"})
    assert (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs_and_is_kept_without_what_it_printed(file, tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(file, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [cell for cell in code if cell.outputs or cell.execution_count], "clear its outputs before a commit"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment)
    assert all(cell.outputs for cell in code if not cell.source.startswith("import lightning"))
