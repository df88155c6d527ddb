"""What it saves to read once what rows of a batch begin with, SmolLM2-135M: the tables of docs/bench_prefix.md.

    python scripts/bench_prefix.py                    # the arithmetic that training has here by default
    python scripts/bench_prefix.py --precision 32-true --rounds 3

Batches of eight made-up texts: with 0, 2 and 8 worked examples in every prompt, with four samples of each of two
problems, and with two examples that one row of eight lacks. Three ways of reading, each row whole beside everything
once, in turns in one process: training (decoder forward and backward over the response rows), scoring (forward) and
the prompts of generation. CPU seconds, so that a busy machine matters less; a GPU would be another question.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from time import process_time
from typing import Any

import hydra
import torch

from ekd.cli.door import build
from ekd.defaults import precision
from ekd.method import CONF
from ekd.models.generation import generate, left_pad
from ekd.models.load import load_model
from ekd.models.prefix import Tree
from ekd.models.reader import hidden_where
from ekd.types import Request

TEXTS = 8
CASES = {
    "no examples": (0, 1, 0),
    "2 examples": (2, 1, 0),
    "8 examples": (8, 1, 0),
    "4 samples of each problem": (0, 4, 0),
    "4 samples of each, 2 examples": (2, 4, 0),
    "2 examples, one row of eight without": (2, 1, 1),
}


def requests(shots: int, samples: int, without: int) -> list[Request]:
    """As the demo makes them. samples: of each problem; without: rows whose prompt has no examples."""
    made = {}
    for some in {shots, 0}:
        words = ["experiment=demo", f"prompt.shots={some}", "hydra.runtime.output_dir=out", "teacher_prompt=same"]
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            config = hydra.compose("train", words)
        # the first problems are themselves the examples
        made[some] = build(config.data).collector.requests("train", 3 * TEXTS)[-TEXTS:]
    chosen = made[shots][: TEXTS // samples] * samples
    return [*made[0][:without], *chosen[without:]]


class Reading:
    """Eight texts, and three ways to read them; once: what they begin with alike."""

    def __init__(self, model: Any, asked: list[Request], autocast: torch.dtype | None) -> None:
        self.model, self.autocast, self.prompts = model, autocast, [request.prompt_ids for request in asked]
        texts = [[*request.prompt_ids, *request.response_ids[:-1]] for request in asked]  # type: ignore[misc]
        width = max(map(len, texts))
        self.ids = torch.tensor([text + [0] * (width - len(text)) for text in texts])
        self.column = torch.arange(width).expand_as(self.ids)
        begins, ends = (torch.tensor(list(map(len, lists)))[:, None] for lists in (self.prompts, texts))
        self.mask = (self.column >= begins - 1) & (self.column < ends)
        self.tree = Tree([prompt[:-1] for prompt in self.prompts], list(map(len, texts)))

    def score(self, once: bool) -> None:
        with torch.inference_mode():
            self._hidden(once)

    def train(self, once: bool) -> None:
        self._hidden(once).float().square().sum().backward()
        self.model.zero_grad(set_to_none=True)

    def _hidden(self, once: bool) -> torch.Tensor:
        shared = self.tree.chains() if once else ()
        return hidden_where(self.model.get_decoder().__call__, self.ids, self.column, self.mask, shared)

    @torch.inference_mode()
    def generate(self, once: bool) -> None:
        if once:
            generate(self.model, self.prompts, end={0}, max_new_tokens=1)
        else:
            ids, mask = left_pad(self.prompts, 0)
            place = (mask.cumsum(1) - 1).clamp_min(0)
            self.model(input_ids=ids, attention_mask=mask, position_ids=place, use_cache=True, logits_to_keep=1)

    def seconds(self, read: Callable[[bool], None], once: bool) -> float:
        began = process_time()
        with torch.autocast("cpu", self.autocast, enabled=self.autocast is not None):
            read(once)
        return process_time() - began

    def figures(self, rounds: int) -> list[str]:
        """Of training both medians and the ratio, of the others the ratio."""
        cells = []
        for read in (self.train, self.score, self.generate):
            turns = [(self.seconds(read, False), self.seconds(read, True)) for _ in range(rounds)]
            whole, once = (median(column) for column in zip(*turns, strict=True))
            cells += [f"{whole:.2f}", f"{once:.2f}"] if read == self.train else []
            cells.append(f"**{median(a / b for a, b in turns):.2f}**")
        return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default=precision())
    asked = parser.parse_args()
    autocast = torch.bfloat16 if asked.precision == "bf16-mixed" else None
    model = load_model("smollm2").train()
    words = f"{asked.precision}, {TEXTS} texts, median of {asked.rounds}"
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {words}\n")
    print("| prompts | places whole | once | training whole, s | once, s | ratio | scoring | generation's prompts |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, case in CASES.items():
        reading = Reading(model, requests(*case), autocast)
        reading.score(once=True)  # the first reading of a shape takes longer
        places = [reading.ids.numel(), reading.tree.places(reading.tree.cuts)]
        print(f"| {' | '.join([name, *(f'{n:,}' for n in places), *reading.figures(asked.rounds)])} |", flush=True)


if __name__ == "__main__":
    main()
