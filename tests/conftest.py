"""Tiny models and what they make. Nothing here needs a network, a GPU or a file."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pytest

# Two threads fight over the small matrices of these tests; one is faster.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # begun in the background: tests of Ctrl-C would wait for ever
    signal.signal(signal.SIGINT, signal.default_int_handler)

from ekd.data.collect import Collector
from ekd.dataset.arithmetic import Arithmetic
from ekd.models.load import load_model, load_tokenizer
from ekd.models.prompt import Prompt
from ekd.store.address import Address
from ekd.teacher.hf import HF
from ekd.types import Trace

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """A cache of its own for every test but the real ones, which share the converted model."""
    if request.node.get_closest_marker("real") is None:
        monkeypatch.setenv("EKD_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A bucket of a server on loopback that speaks S3. Its keys are in the environment, as a user's would be."""
    pytest.importorskip("s3fs", reason="pip install 'ekd[s3]'")
    server = pytest.importorskip("moto.server", reason="pip install 'moto[s3]' flask flask-cors")
    import fsspec

    with pytest.MonkeyPatch.context() as patch:
        running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        running.start()
        host, port = running.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "hidden-from-everybody")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3", use_listings_cache=False).mkdir("bucket")
        yield "s3://bucket"
        running.stop()


@pytest.fixture(params=["folder", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path | Address:
    """Where stores of a test may lie: a folder, and two kinds of address."""
    if request.param == "folder":
        return tmp_path
    top = request.getfixturevalue("s3") if request.param == "s3" else "memory://"
    return Address(f"{top.rstrip('/')}/{token_hex(6)}" if request.param == "s3" else f"memory://{token_hex(6)}")


def hf(**changes) -> HF:
    values = {
        "model": "tiny:1", "mode": "generate", "dtype": "float32", "quantize": None, "attention": "sdpa",
        "device": "cpu", "trust_remote_code": False, "mass": 0.99, "max_k": 16, "draws": 0, "temperatures": [],
        "temperature": 1.0, "top_p": 1.0,
        "max_new_tokens": 12, "batch_size": 4, "align": "auto",
    }  # fmt: skip
    return HF(**(values | changes))


def collector(**changes) -> Collector:
    values = {
        "teacher": hf(),
        "dataset": Arithmetic(seed=0, train=24, val=6, test=6, kinds=None, levels=[1]),
        "prompt": Prompt(system="", instruction="", shots=0, thinking=None),
        "tokenizer": "tiny",
        "store": None,
        "samples": 1,
        "seed": 0,
        "trust_remote_code": False,
        "text_tokens": 1024,
    }
    return Collector(**(values | changes))


def traces(count: int = 6, **changes) -> list[Trace]:
    """Straight from the teacher, not through a store."""
    maker = collector(**changes)
    return list(maker.teacher.trace(maker.requests("train", count)))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer("tiny")


@pytest.fixture
def tiny():
    return load_model("tiny").eval()
