"""What a stored token costs, and what it loses: ekd's store beside the formats that others use, on the same real rows.

    python scripts/bench_store.py --gsm8k PATH                    # 10,000 response tokens, about two minutes
    python scripts/bench_store.py --gsm8k PATH --tokens 100000    # the README's table; scoring takes 10 to 20 minutes

SmolLM2 reads GSM8K's own solutions in float32. KL errors are KL(teacher, stored): on the row's entries and one
category for everything else, and over the whole vocabulary, where a stored tail is spread evenly. A format that keeps
no tail has an infinite KL; for it the other direction, KL(stored, teacher), is shown and marked with *. ekd's bytes are
all that is on disk: prompts, responses, entropies, checksums, manifest; the others' are their rows alone.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
from rich.console import Console
from rich.table import Table
from store_formats import DRAWS, VOCAB, WIDE, Kept, Rows, drawn, ekd, fixed, in_store, ollama, packed24, ragged, traces
from torch.utils.data import DataLoader

from ekd.data import Batches, Collate, Traces
from ekd.model import load_model, load_tokenizer
from ekd.store.store import Store

EKD = [(0.9, 16), (0.95, 16), (0.98, 32), (0.99, 32), (0.99, 64), (0.999, 64), (0.9999, 128)]
console = Console(width=160)


def score(folder: Path, tokens: int) -> Rows:
    """Teacher forcing over the worked solutions, one by one, until there are enough response tokens."""
    import torch

    model, tokenizer = load_model("smollm2", dtype="float32"), load_tokenizer("smollm2")
    chance = torch.Generator().manual_seed(0)
    parts: list[list[np.ndarray]] = []
    began, count = perf_counter(), 0
    for line in (folder / "train.jsonl").read_text("utf-8").splitlines():
        prompt, response = text(json.loads(line))
        a = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        b = tokenizer(response, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            hidden = model.get_decoder()(torch.tensor([a + b])).last_hidden_state[0, len(a) - 1 : -1]
            log_p = model.get_output_embeddings()(hidden).double().log_softmax(-1)
        p = log_p.exp()
        top = log_p.topk(WIDE)
        draws = torch.multinomial(p, DRAWS, replacement=True, generator=chance)
        tensors = [
            top.indices.int(),
            top.values.float(),
            p.scatter(1, top.indices, 0.0).sum(-1).log(),
            -(p * log_p).sum(-1),
        ]
        tensors += [log_p.gather(1, torch.tensor(b)[:, None])[:, 0], draws.int(), log_p.gather(1, draws).float()]
        lengths = [np.array([len(a)]), np.array([len(b)]), np.array(a, np.int32), np.array(b, np.int32)]
        parts.append([*lengths, *(x.numpy() for x in tensors)])
        count += len(b)
        if len(parts) % 50 == 0:
            console.print(f"scored {count:,} of {tokens:,} tokens, {count / (perf_counter() - began):.0f} a second")
        if count >= tokens:
            break
    return Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def text(problem: dict[str, str]) -> tuple[str, str]:
    """Prompt and response as a chat, without the calculator's marks."""
    body, answer = re.sub(r"<<.*?>>", "", problem["answer"]).split("\n#### ")
    system = "Think step by step. Put the final answer in \\boxed{}."
    prompt = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{problem['question']}<|im_end|>\n"
    return prompt + "<|im_start|>assistant\n", f"{body}\nThe answer is \\boxed{{{answer.replace(',', '')}}}.<|im_end|>"


def errors(rows: Rows, kept: Kept) -> tuple[np.ndarray, np.ndarray, str]:
    """(KL on entries + tail, KL over the whole vocabulary) of each row, and the mark of the direction."""
    first = np.cumsum(kept.counts) - kept.counts
    truth, stored = kept.truth.astype(np.float64), kept.stored.astype(np.float64)
    if not kept.stored_tail.any():
        q = np.exp(stored)
        reverse = np.add.reduceat(np.where(q > 0, q * (np.where(q > 0, stored, 0) - truth), 0), first)
        return reverse, reverse, "*"
    p, tail = np.exp(truth), kept.true_tail
    entries = np.add.reduceat(p * (truth - stored), first) + tail * np.log(tail / kept.stored_tail)
    spread = np.log(kept.stored_tail / (VOCAB - kept.counts))
    whole = -rows.entropy[: len(first)] - np.add.reduceat(p * stored, first) - tail * spread
    return entries, whole, ""


def compare(rows: Rows, folder: Path) -> None:
    formats: list[Callable[[], Kept]] = [lambda k=k: fixed(rows, folder, k) for k in (20, 64)]
    formats += [lambda: fixed(rows, folder, 20, squeezed=True), lambda: ollama(rows, folder)]
    formats += [lambda: packed24(rows, folder), lambda: drawn(rows, folder)]
    formats += [lambda mass=mass, most=most: ekd(rows, folder, mass, most) for mass, most in EKD]
    formats += [lambda: ekd(rows, folder, 0.999, 64, coarse=1)]
    n = len(rows.responses)
    table = Table(
        title=f"{n:,} response tokens of {len(rows.prompt_lengths):,} GSM8K solutions, SmolLM2-135M in float32"
    )
    heads = [
        "format",
        "entries",
        "B/token",
        "B/entry",
        "KL k+1",
        "worst",
        "KL all",
        "worst",
        "write rows/s",
        "read rows/s",
    ]
    for head in heads:
        table.add_column(head, justify="left" if head == "format" else "right")
    markdown = [" | ".join(heads), "|".join(["---"] + ["---:"] * 9)]
    found: list[tuple[Kept, float, float]] = []
    for make in formats:
        kept = make()
        entries, whole, mark = errors(rows, kept)
        size, many = kept.size / len(kept.counts), kept.counts.mean()
        found.append((kept, size, float(whole.mean()) if not mark else np.inf))
        cells = [kept.name, f"{many:.1f}", f"{size:.1f}", f"{size / many:.2f}"]
        cells += [f"{x:.1e}{mark}" for x in (entries.mean(), entries.max(), whole.mean(), whole.max())]
        cells += [f"{rate:,.0f}" if rate else "" for rate in (kept.write, kept.read)]
        table.add_row(*cells)
        markdown.append(" | ".join(cells))
    console.print(table)
    console.print("\n".join(f"| {line} |" for line in markdown), soft_wrap=True)
    equal_error(rows, folder, found[:3])


def equal_error(rows: Rows, folder: Path, others: list[tuple[Kept, float, float]]) -> None:
    """For each fixed format the smallest of a grid of ekd's settings whose mean KL over all ids is no worse."""
    masses, widths = (0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999), (16, 24, 32, 48, 64, 128, 256)
    grid = [ekd(rows, folder / "grid", mass, most) for most in widths for mass in masses]
    costs = [(kept.size / len(kept.counts), float(errors(rows, kept)[1].mean()), kept.name) for kept in grid]
    for kept, size, error in others:
        ours, reached, name = min(cost for cost in costs if cost[1] <= error)
        console.print(f"{kept.name}: {size:.1f} B/token at KL {error:.2e}", soft_wrap=True)
        console.print(f"  {name}: {ours:.1f} B/token at {reached:.2e}: {size / ours:.2f} times smaller", soft_wrap=True)


def loader(rows: Rows, folder: Path) -> None:
    """Rows a second that one loader process feeds: read, checked, decoded, collated, sent to the trainer."""
    counts, ids, logprobs, tail = ragged(rows, 0.999, 64)
    in_store(folder, traces(rows, counts, ids, logprobs, np.log(tail)), {})
    store = Store(folder)
    data = Traces(store, sorted(store.keys()))
    batches = Batches(data.lengths, max_tokens=4000, seed=0)
    batch = DataLoader(data, batch_sampler=batches, num_workers=1, collate_fn=Collate(VOCAB))
    began, fed = perf_counter(), 0
    for one in batch:
        fed += len(one.rows.target)
    console.print(
        f"one loader process, mass 0.999, max_k 64: {fed / (perf_counter() - began):,.0f} rows a second, collated"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gsm8k", type=Path, help="folder with GSM8K's train.jsonl")
    parser.add_argument("--tokens", type=int, default=10_000, help="response tokens to score")
    parser.add_argument(
        "--rows", type=Path, help="a .npz that keeps the scored rows: written, or read when it is there"
    )
    options = parser.parse_args()
    if options.rows and options.rows.exists():
        rows = Rows(**np.load(options.rows))
    elif options.gsm8k:
        rows = score(options.gsm8k, options.tokens)
        if options.rows:
            np.savez(options.rows, **rows._asdict())
    else:
        parser.error("--gsm8k PATH says where GSM8K's train.jsonl is")
    scratch = Path(tempfile.mkdtemp())
    try:
        (scratch / "grid").mkdir()
        compare(rows, scratch)
        loader(rows, scratch / "loader")
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
