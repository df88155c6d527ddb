"""What a stored token costs, and what it loses: ekd's store beside the formats that others use, on the same real rows.

    python scripts/bench_store.py                                 # 10,000 response tokens, about three minutes
    python scripts/bench_store.py --gsm8k PATH --tokens 100000    # docs/measured.md's table; takes about half an hour

SmolLM2 reads worked solutions in float32: GSM8K's own, or without --gsm8k those of ekd's arithmetic.

KL errors are KL(teacher, stored): on the row's entries and one
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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
from rich.console import Console
from rich.table import Table
from store_formats import DRAWS, VOCAB, WIDE, Kept, Rows, drawn, ekd, fixed, in_store, ollama, packed24, ragged, traces
from torch.utils.data import DataLoader

from ekd.data.batch_sampler import Batches
from ekd.data.cached import Traces
from ekd.data.collate import Collate
from ekd.dataset.arithmetic import Arithmetic
from ekd.models.load import load_model, load_tokenizer
from ekd.store.store import Store

EKD = [(0.9, 16), (0.95, 16), (0.98, 32), (0.99, 32), (0.99, 64), (0.999, 64), (0.9999, 128)]
console = Console(width=160)


def score(solutions: Iterable[tuple[str, str]], tokens: int) -> Rows:
    """Teacher forcing over (question, solution), one by one, until there are enough response tokens."""
    import torch

    model, tokenizer = load_model("smollm2", dtype="float32"), load_tokenizer("smollm2")
    chance = torch.Generator().manual_seed(0)
    parts: list[list[np.ndarray]] = []
    began, count = perf_counter(), 0
    for question, solution in solutions:
        prompt, response = chat(question, solution)
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


def gsm8k(folder: Path) -> Iterator[tuple[str, str]]:
    """Without the calculator's marks, and with the answer in a box."""
    for line in (folder / "train.jsonl").read_text("utf-8").splitlines():
        problem = json.loads(line)
        body, answer = re.sub(r"<<.*?>>", "", problem["answer"]).split("\n#### ")
        yield problem["question"], f"{body}\nThe answer is \\boxed{{{answer.replace(',', '')}}}."


def arithmetic() -> Iterator[tuple[str, str]]:
    dataset = Arithmetic(seed=0, train=3000, val=0, test=0, kinds=None, levels=[1, 2, 3])
    return ((problem.question, problem.solution) for problem in dataset.problems("train"))


def chat(question: str, solution: str) -> tuple[str, str]:
    system = "Think step by step. Put the final answer in \\boxed{}."
    prompt = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    return prompt, solution + "<|im_end|>"


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
    """For each fixed format the smallest of ekd's settings whose mean KL over all ids is no worse.

    The settings are tried on the first tenth of the rows; the best is then measured on all of them.
    """
    part = beginning(rows, max(len(rows.prompt_lengths) // 10, 50))
    settings = [(mass, most) for mass in (0.98, 0.99, 0.995, 0.998, 0.999) for most in (20, 24, 32, 48, 64, 96, 128)]
    tried = {setting: ekd(part, folder / "some", *setting) for setting in settings}
    for fixed_kept, size, error in others:
        there = len(part.responses) * int(fixed_kept.counts[0])
        limit = errors(part, cut(fixed_kept, len(part.responses), there))[1].mean()
        good = [(kept.size, setting) for setting, kept in tried.items() if errors(part, kept)[1].mean() <= 0.98 * limit]
        ours = ekd(rows, folder / "all", *min(good)[1])
        reached, bytes_a_token = errors(rows, ours)[1].mean(), ours.size / len(ours.counts)
        console.print(f"{fixed_kept.name}: {size:.1f} B/token at KL {error:.2e}", soft_wrap=True)
        console.print(
            f"  {ours.name}: {bytes_a_token:.1f} B/token at {reached:.2e}: {size / bytes_a_token:.2f} times smaller"
        )
        shutil.rmtree(folder / "all")


def beginning(rows: Rows, sequences: int) -> Rows:
    prompts, tokens = (int(lengths[:sequences].sum()) for lengths in rows[:2])
    return Rows(*(x[:sequences] for x in rows[:2]), rows.prompts[:prompts], *(x[:tokens] for x in rows[3:]))


def cut(kept: Kept, rows: int, entries: int) -> Kept:
    counts, tails = kept.counts[:rows], (kept.true_tail[:rows], kept.stored_tail[:rows])
    return Kept(kept.name, 0, counts, kept.truth[:entries], kept.stored[:entries], *tails, 0, 0)


def loader(rows: Rows, folder: Path) -> None:
    """Rows a second that one loader process feeds: read, checked, decoded, collated, sent to the trainer."""
    counts, ids, logprobs, tail = ragged(rows, 0.999, 64)
    in_store(folder, traces(rows, counts, ids, logprobs, np.log(tail)), {})
    store = Store(folder)
    data = Traces(store, sorted(store.keys()))
    batches = Batches(data.lengths, max_tokens=4000, seed=0)
    feed = DataLoader(data, batch_sampler=batches, num_workers=1, collate_fn=Collate(VOCAB), persistent_workers=True)
    for _ in feed:
        pass  # the worker has started, the files are in the page cache
    began, fed = perf_counter(), 0
    while perf_counter() - began < 5:
        fed += sum(len(batch.rows.target) for batch in feed)
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
    else:
        rows = score(gsm8k(options.gsm8k) if options.gsm8k else arithmetic(), options.tokens)
        if options.rows:
            np.savez(options.rows, **rows._asdict())
    scratch = Path(tempfile.mkdtemp())
    try:
        compare(rows, scratch)
        loader(rows, scratch / "loader")
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
