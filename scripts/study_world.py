"""A small world of its own for docs/study2.md: problems, a tokenizer, a teacher and eight students, made from nothing.

    python scripts/study_world.py world

Problems are chains of one to four sums ("Start with 37. Add 15. Double it. What is the result?"). Their solutions are
written in words that are drawn anew at every line, so that a solution has places where its writer decides (how to
write a line, whether to split a sum into easier ones) and places where there is one right token. The teacher reads
such solutions until it solves most problems. A student, a sixth of its size, has read solutions of single sums
alone: it solves many of those and next to no chain. Each of the ten has first weights and an order of its own.
Everything follows from the seeds: the same machine makes the same files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast

from ekd.models.generation import generate
from ekd.models.tiny import CHATML

SPLITS = {"train": (0, 70), "val": (70, 85), "test": (85, 100)}  # percent of all questions, by their hash
LIMIT = 99  # of any number on the way


@dataclass(frozen=True)
class Size:
    hidden: int
    layers: int
    steps: int  # of training, each on BATCH solutions
    rate: float  # peak learning rate
    sums: int  # at most, of a question it reads


BATCH, POOL = 32, 16  # solutions of a step; batches that are drawn at once, so that each holds texts of one length
TEACHER = Size(hidden=128, layers=4, steps=2500, rate=2e-3, sums=4)
STUDENT = Size(hidden=64, layers=3, steps=1500, rate=5e-3, sums=1)
GOING_ON = Size(hidden=64, layers=3, steps=4000, rate=3e-3, sums=4)
CHECK, ENOUGH = 200, 0.3
TRAIN, HELD_OUT = 2000, 400  # problems
STUDENTS = 10  # 0 to 7 are the study's seeds, 8 and 9 choose learning rates


def chain(rng: Random, most: int) -> tuple[str, list[tuple[int, str, int, int]]]:
    """A question of 1 to `most` sums and its lines: (before, operation, by, after)."""
    now = rng.randint(2, LIMIT)
    said, lines = [f"Start with {now}."], []
    for _ in range(rng.randint(1, most)):
        operation, by, after = _step(rng, now)
        said.append(_asked(rng, operation, by))
        lines.append((now, operation, by, after))
        now = after
    return " ".join([*said, rng.choice(["What is the result?", "What do you get?"])]), lines


def _step(rng: Random, now: int) -> tuple[str, int, int]:
    while True:
        operation = rng.choice("++--*")
        by = rng.randint(2, 3) if operation == "*" else rng.randint(2, 19)
        after = {"+": now + by, "-": now - by, "*": now * by}[operation]
        if 0 < after <= LIMIT:
            return operation, by, after


def _asked(rng: Random, operation: str, by: int) -> str:
    if (operation, by) == ("*", 2):
        return "Double it."
    return {
        "+": rng.choice([f"Add {by}.", f"Put {by} more on top."]),
        "-": rng.choice([f"Take away {by}.", f"Subtract {by}."]),
        "*": f"Multiply by {by}.",
    }[operation]


def solution(rng: Random, lines: list[tuple[int, str, int, int]]) -> str:
    written = [_line(rng, *line) for line in lines]
    last = rng.choice(["The answer is", "So the result is", "We get"])
    return "\n".join([*written, f"{last} \\boxed{{{lines[-1][-1]}}}."])


def _line(rng: Random, now: int, operation: str, by: int, after: int) -> str:
    style = rng.choice(["short", "words", "split"])
    if style == "split" and operation == "*" and now > 10 and now % 10:
        tens, ones = now - now % 10, now % 10
        return f"{tens} * {by} = {tens * by} and {ones} * {by} = {ones * by}, so {after}."
    if style == "split" and operation != "*" and by > 10:
        between = now + 10 if operation == "+" else now - 10
        return f"{now} {operation} 10 = {between}, then {between} {operation} {by - 10} = {after}."
    if style == "words":
        said = {"+": f"Adding {by} to {now}", "-": f"Taking {by} from {now}", "*": f"{by} times {now}"}[operation]
        return f"{said} {rng.choice(['gives', 'makes', 'is'])} {after}."
    return f"{now} {operation} {by} = {after}."


def drawn(split: str, seed: str, most: int = 4) -> Iterator[tuple[str, str, str]]:
    """Without end: question, solution, answer; a question belongs to one split whatever the seed."""
    rng, (low, high) = Random(f"{seed} {split}"), SPLITS[split]
    while True:
        question, lines = chain(rng, most)
        if low <= int(sha256(question.encode()).hexdigest(), 16) % 100 < high:
            yield question, solution(rng, lines), str(lines[-1][-1])


def write_problems(folder: Path) -> None:
    """val.jsonl and test.jsonl for everybody, and train_0.jsonl to train_9.jsonl, which share no question either."""
    for split, sizes in {"train": [TRAIN] * STUDENTS, "val": [HELD_OUT], "test": [HELD_OUT]}.items():
        found: dict[str, str] = {}
        for question, worked, answer in drawn(split, "problems"):
            name = f"{split}-{len(found)}"
            posed = {"id": name, "question": question, "answer": answer, "solution": worked}
            found.setdefault(question, json.dumps(posed))
            if len(found) == sum(sizes):
                break
        lines = iter(found.values())
        for number, size in enumerate(sizes):
            file = folder / (f"train_{number}.jsonl" if split == "train" else f"{split}.jsonl")
            file.write_text("".join(next(lines) + "\n" for _ in range(size)))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Words as tokens, every digit one of its own."""
    stream = drawn("train", "tokenizer")
    texts = [f"{question}\n{worked}" for question, worked, _ in (next(stream) for _ in range(5000))]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special[0],
        eos_token=special[1],
        pad_token=special[1],
        chat_template=CHATML,
    )


def make_model(size: Size, tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """Trained on solutions of the train split's questions by cross entropy; AdamW, cosine, one thread."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=3 * size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.hidden // 16,
        num_key_value_heads=size.hidden // 16,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for step, loss in _read(model, size, tokenizer, f"reader {seed}", seed):
        if step % 200 == 0:
            print(f"step {step:>5}  loss {loss:.4f}", flush=True)
    return model


def go_on(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    """A student reads chains, too, until it solves ENOUGH of CHECK problems of the val split."""
    stream = drawn("val", "when to stop")
    posed = [next(stream) for _ in range(CHECK)]
    for step, loss in _read(model, GOING_ON, tokenizer, f"reader {seed} goes on", seed):
        if step % 50 == 0:
            solved = _solved(model, tokenizer, posed)
            print(f"step {step:>5}  loss {loss:.4f}  solved {100 * solved:.0f}%", flush=True)
            if solved >= ENOUGH:
                return
    raise SystemExit(f"the student of seed {seed} solved too little after {GOING_ON.steps} steps")


def _read(
    model: PreTrainedModel, size: Size, tokenizer: PreTrainedTokenizerFast, stream: str, seed: int
) -> Iterator[tuple[int, float]]:
    """Steps and their loss; the learning rate rises for 100 steps and falls to a twentieth as a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=size.rate, betas=(0.9, 0.95), weight_decay=0.01)
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, 1.0, total_iters=100)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, size.steps - 100, eta_min=size.rate / 20)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, fall], [100])
    batches = _batches(size, tokenizer, stream, seed)
    for step in range(1, size.steps + 1):
        ids, labels = next(batches)
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield step, loss.item()


def _solved(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, posed: list[tuple[str, str, str]]) -> float:
    end = {tokenizer.eos_token_id}
    prompts = [_encoded(tokenizer, question, "")[0] for question, _, _ in posed]
    texts = list(generate(model.eval(), prompts, end=end, max_new_tokens=128))
    model.train()
    answers = [tokenizer.decode(text.ids) for text in texts]
    return sum(f"boxed{{{right}}}" in said for said, (_, _, right) in zip(answers, posed, strict=True)) / len(posed)


def _batches(size: Size, tokenizer: PreTrainedTokenizerFast, stream: str, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids [B, T] padded on the right, and labels that count the solution and its end alone."""
    texts_of, rng = drawn("train", stream, size.sums), Random(seed)
    while True:
        texts = sorted(
            (_encoded(tokenizer, *next(texts_of)[:2]) for _ in range(BATCH * POOL)), key=lambda t: len(t[0] + t[1])
        )
        cuts = list(range(0, BATCH * POOL, BATCH))
        rng.shuffle(cuts)
        for cut in cuts:
            yield _padded(texts[cut : cut + BATCH], tokenizer.pad_token_id)


def _encoded(tokenizer: PreTrainedTokenizerFast, question: str, worked: str) -> tuple[list[int], list[int]]:
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tokenizer.encode(prompt), [*tokenizer.encode(worked), tokenizer.eos_token_id]


def _padded(texts: list[tuple[list[int], list[int]]], pad: int) -> tuple[Tensor, Tensor]:
    width = max(len(head) + len(tail) for head, tail in texts)
    ids = torch.full((len(texts), width), pad)
    labels = torch.full((len(texts), width), -100)
    for row, (head, tail) in enumerate(texts):
        ids[row, : len(head) + len(tail)] = torch.tensor([*head, *tail])
        labels[row, len(head) : len(head) + len(tail)] = torch.tensor(tail)
    return ids, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*", help="teacher, student_0 ... student_9; all where none is named")
    asked = parser.parse_args()
    folder: Path = asked.folder
    torch.set_num_threads(1)  # the same sums in the same order on any number of cores
    folder.mkdir(parents=True, exist_ok=True)
    write_problems(folder)
    tokenizer = make_tokenizer()
    makers = {"teacher": (TEACHER, 1000), **{f"student_{seed}": (STUDENT, seed) for seed in range(STUDENTS)}}
    for name in asked.models or makers:
        if (folder / name).exists():
            continue
        print(name)
        model = make_model(makers[name][0], tokenizer, makers[name][1])
        if name != "teacher":
            go_on(model, tokenizer, makers[name][1])
        model.save_pretrained(folder / f"{name}.part")
        tokenizer.save_pretrained(folder / f"{name}.part")
        (folder / f"{name}.part").rename(folder / name)


if __name__ == "__main__":
    main()
