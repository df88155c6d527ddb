"""How much mass a translated row really has on the wrong token. `python scripts/misplaced_mass.py`

Where teacher and student both begin a token, each word of the teacher's counts for the student's first token in it.
That is another one where the student's token goes on into the teacher's next word. The bound of a row has to assume it;
here the teacher is asked: it reads each of its likeliest words, and what comes next says how often it happens.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

import numpy as np
import torch
from bench_translate import RECORDED, other_family
from transformers import PreTrainedModel

from ekd.models.generation import read_once
from ekd.models.head import head_of
from ekd.models.load import load_model, load_tokenizer
from ekd.teacher.hf import logits
from ekd.translate.alignment import align
from ekd.translate.spelling import Spelling, spelling_of

WORDS, NEXT = 16, 200  # of a row; and after each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=Path, default=RECORDED, help="JSON lines of Ollama's answers")
    parser.add_argument("--teacher", default="smollm2", help="a folder, .gguf file or hub name")
    parser.add_argument("--student", help="the same, for its tokenizer; default: one trained on the spot")
    parser.add_argument("--rows", type=int, default=60, help="how many, by chance")
    chosen = parser.parse_args()
    tokenizer, model = load_tokenizer(chosen.teacher), load_model(chosen.teacher).eval()
    teacher = spelling_of(tokenizer)
    student = spelling_of(load_tokenizer(chosen.student)) if chosen.student else other_family(tokenizer)
    with gzip.open(chosen.answers, "rt") as lines:
        answers = [json.loads(line) for line in lines]
    places = []
    for answer in answers:
        text = answer["response"]["response"].encode()
        ids = list(teacher.cut([text])[0])
        begin = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        prompt = [*begin, *tokenizer.encode(f"{answer['question']}\n", add_special_tokens=False)]
        sizes = [np.array([len(side.texts[i]) for i in side.cut([text])[0]]) for side in (teacher, student)]
        places += [[*prompt, *ids[:row]] for row in align(*sizes).equal_teacher.tolist()]
    some = np.random.default_rng(0).permutation(len(places))[: chosen.rows]
    found = np.array([misplaced(model, places[i], teacher, student) for i in some])
    print(
        f"{len(found)} rows, {WORDS} words of each and {NEXT} after each: misplaced mass {found.mean():.4f} on "
        f"average, median {np.median(found):.5f}, 90% of rows below {np.quantile(found, 0.9):.4f}, at most "
        f"{found.max():.4f}"
    )


@torch.inference_mode()
def misplaced(model: PreTrainedModel, before: list[int], teacher: Spelling, student: Spelling) -> float:
    """before: what the teacher read so far -> the mass of its likeliest words whose first token becomes another."""
    decoder, head = model.get_decoder(), head_of(model)
    hidden = decoder(input_ids=torch.tensor([before])).last_hidden_state[:, -1]
    p = logits(hidden, head)[0, : len(teacher.texts)].softmax(-1)
    words = [i for i in p.topk(WORDS).indices.tolist() if teacher.texts[i]]
    cache = read_once(model, before, len(words))
    hidden = decoder(input_ids=torch.tensor(words)[:, None], past_key_values=cache).last_hidden_state[:, -1]
    after = logits(hidden, head)[:, : len(teacher.texts)].softmax(-1)
    total = 0.0
    for word, row in zip(words, after, strict=True):
        mass, ids = row.topk(NEXT)
        own = student.cut([teacher.texts[word]])[0][:1]
        longer = student.cut([teacher.texts[word] + teacher.texts[i] for i in ids.tolist()])
        moved = np.array([cut[:1] != own for cut in longer])
        total += float(p[word]) * float(mass.numpy() @ moved)
    return total


if __name__ == "__main__":
    main()
