"""What it saves to read a beginning that a batch shares once: worked examples in every prompt, SmolLM2-135M.

    python scripts/bench_prefix.py            # the table of docs/bench_prefix.md
    python scripts/bench_prefix.py --rounds 2

The decoder forward and backward over the response rows of one batch of eight made-up problems, with 0, 2 and 8 worked
examples in the prompt, in float32 and under bfloat16 autocast: every row read whole beside the beginning read once, in
turns in one process. CPU seconds, so that a busy machine matters less; a GPU would be another question.
"""

from __future__ import annotations

import argparse
from statistics import median
from time import process_time
from typing import Any

import hydra
import numpy as np
import torch

from ekd.cli.door import build
from ekd.method import CONF
from ekd.models.generation import common
from ekd.models.load import load_model
from ekd.models.reader import response_hidden
from ekd.types import Batch

TEXTS = 8


def batch_of(shots: int) -> Batch:
    """Prompts and given solutions as the demo makes them, without a teacher's rows: the decoder needs none."""
    words = ["experiment=demo", f"prompt.shots={shots}", "hydra.runtime.output_dir=out", "teacher_prompt=same"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("train", words)
    made = build(config.data).collector.requests("train", 3 * TEXTS)[-TEXTS:]  # the first are themselves the examples
    texts = [[*request.prompt_ids, *request.response_ids[:-1]] for request in made]
    shape = (len(texts), max(map(len, texts)))
    ids, mask, real = np.zeros(shape, np.int64), np.zeros(shape, bool), np.zeros(shape, np.int64)
    for row, (text, request) in enumerate(zip(texts, made, strict=True)):
        ids[row, : len(text)], real[row, : len(text)] = text, 1
        mask[row, len(request.prompt_ids) - 1 : len(text)] = True
    position = torch.arange(shape[1]).expand(*shape)
    arrays: list[Any] = [torch.from_numpy(array) for array in (ids, real, mask)]
    shared = common([request.prompt_ids[:-1] for request in made])
    return Batch(arrays[0], arrays[1], position, arrays[0], arrays[2], None, shared)  # type: ignore[arg-type]


def seconds(model: Any, batch: Batch, share: bool, dtype: torch.dtype) -> float:
    began = process_time()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        hidden = response_hidden(model.get_decoder().__call__, batch, share=share)
    hidden.float().square().sum().backward()
    model.zero_grad(set_to_none=True)
    return process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    model = load_model("smollm2").train()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {TEXTS} texts, median of {rounds}\n")
    print("| examples | arithmetic | places, of them shared | rows that pay | whole, s | once, s | ratio |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    for shots in (0, 2, 8):
        batch = batch_of(shots)
        for dtype in (torch.float32, torch.bfloat16):
            turns = [(seconds(model, batch, False, dtype), seconds(model, batch, True, dtype)) for _ in range(rounds)]
            whole, once = (median(column) for column in zip(*turns, strict=True))
            ratio = median(a / b for a, b in turns)
            name = str(dtype).removeprefix("torch.")
            places = f"{batch.input_ids.numel():,}, {TEXTS * batch.shared:,}"
            row = [
                str(shots),
                name,
                places,
                str(int(batch.mask.sum())),
                f"{whole:.2f}",
                f"{once:.2f}",
                f"**{ratio:.2f}**",
            ]
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
