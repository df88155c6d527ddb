"""A run's student as a folder or file that others can load: Hugging Face, GGUF, Ollama."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from ekd.distill.fence import check_run
from ekd.files import SEAL, check_seal, read_json
from ekd.renamed import current_run

FORMATS = ("hf", "gguf", "ollama")
OUTTYPES = ("auto", "f32", "f16", "bf16", "q8_0")
DTYPES = (None, "float32", "bfloat16", "float16")
NEEDS = ("gguf", "sentencepiece", "mistral-common", "protobuf")  # packages of convert_hf_to_gguf.py, beside ours
WAY_OUT = (
    "a GGUF is written by llama.cpp's own convert_hf_to_gguf.py, which knows every model family: "
    "git clone --depth 1 https://github.com/ggml-org/llama.cpp, then converter=llama.cpp/convert_hf_to_gguf.py"
)


def finished_run(run: str | None) -> tuple[Path, dict[str, Any]]:
    """The run's folder and its metrics.json."""
    if run is None:
        raise ValueError("give run=RUN, the folder of a finished training run")
    folder = Path(run).expanduser()
    if not (folder / "metrics.json").is_file() or not (folder / "student").is_dir():
        raise ValueError(f"run={run} is not a finished training run (no student/ and metrics.json in it)")
    check_run(folder)  # a link in it would publish what it leads to
    return folder, current_run(read_json(folder / "metrics.json"))


def check_code(student: Path) -> None:
    """Raises ValueError for a student with code of its own: converters run it unasked."""
    for file in (student / "config.json", student / "tokenizer_config.json"):
        if file.is_file() and "auto_map" in read_json(file):
            raise ValueError(f"{file} names code of the model's own (auto_map), which a converter would run: format=hf")


def find(converter: str | None) -> Path:
    found = converter or shutil.which("convert_hf_to_gguf.py")
    if found is None:
        raise ValueError(WAY_OUT)
    path = Path(found).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no file {path}; {WAY_OUT}")
    return path.resolve()


def write_gguf(student: Callable[[Path], None], converter: Path, file: str, outtype: str, folder: Path) -> None:
    """student: writes what is converted into a folder, which is gone afterwards."""
    plain = folder / "hf"
    plain.mkdir()
    student(plain)
    convert(converter, plain, folder / file, outtype)
    shutil.rmtree(plain)


def write_ollama(
    student: Callable[[Path], None], converter: Path, file: str, outtype: str, made: dict[str, Any], folder: Path
) -> None:
    """A GGUF and its Modelfile."""
    plain = folder / "hf"
    plain.mkdir()
    student(plain)
    convert(converter, plain, folder / file, outtype)
    write_modelfile(plain, folder, file, made)
    shutil.rmtree(plain)


def write_hf(student: Path, folder: Path, dtype: str | None, name: str, made: dict[str, Any]) -> None:
    from ekd.export.model_card import card

    check_seal(student)
    # adapters are merged in already; the student's seal is not that of another precision
    shutil.copytree(student, folder, ignore=shutil.ignore_patterns("adapter", SEAL), dirs_exist_ok=True)
    if dtype is not None:
        cast(folder, dtype)
    try:
        text = card(name, made)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"metrics.json does not say what a card says ({error!r}): give another run") from None
    (folder / "README.md").write_text(text, encoding="utf-8")


def cast(folder: Path, dtype: str) -> None:
    """The weights in another precision; everything else in the folder stays."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    for old in folder.glob("*.safetensors*"):
        old.unlink()
    model.save_pretrained(folder)


def convert(converter: Path, folder: Path, file: Path, outtype: str) -> None:
    """By the converter, in a process of its own: it brings its own libraries."""
    command = [sys.executable, str(converter), str(folder), "--outfile", str(file), "--outtype", outtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not file.is_file():
        absent = re.search(r"No module named '([\w.]+)'", done.stderr)
        if absent:
            there = {name.lower() for names in packages_distributions().values() for name in names}
            packages = [package for package in NEEDS if package not in there]
            wanted = " ".join(packages or [absent[1].partition(".")[0]])
            raise ValueError(
                f"{converter} wants packages that are not installed: {sys.executable} -m pip install {wanted}"
            )
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"{converter} failed: {last}")


def write_modelfile(student: Path, folder: Path, gguf: str, made: dict[str, Any]) -> None:
    from transformers import AutoTokenizer

    from ekd.export.modelfile import modelfile

    config = made["config"]
    text = modelfile(gguf, AutoTokenizer.from_pretrained(student), str(config["prompt"]["system"]), sampling(config))
    (folder / "Modelfile").write_text(text, encoding="utf-8")
    shutil.copy(student / "README.md", folder)


def sampling(config: dict[str, Any]) -> dict[str, float]:
    """As the run's benchmark drew answers. Ollama's own penalty of repetition, 1.1, holds for greedy ones, too."""
    benchmark = config["benchmark"]
    drawn = {"top_p": benchmark["top_p"]} if benchmark["temperature"] else {}
    return {"temperature": benchmark["temperature"], **drawn, "repeat_penalty": 1.0}
