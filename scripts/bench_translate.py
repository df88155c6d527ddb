"""What translation costs beside the scoring that it follows, and how much it knows. `python scripts/bench_translate.py`

A teacher (SmolLM2) scores recorded answers; each one's rows are then translated for a tokenizer of another family, once
seen whole (all V log-probabilities, as the hf teacher has them) and once from rows that were cut (as a server gives
them). Both are timed in turn with the scoring, one answer at a time, so that what else the machine does falls on all
alike.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ekd.models.head import head_of
from ekd.models.load import load_model, load_tokenizer
from ekd.teacher.hf import logits
from ekd.teacher.rows import to_trace, top
from ekd.translate.spelling import Spelling, spelling_of
from ekd.translate.translation import EXACT, Translation, reader_of, translate
from ekd.translate.whole import Whole, table_of
from ekd.types import Request, Trace

BOUNDS = (EXACT, 1e-2, 1e-1)  # of a mass
RECORDED = Path(__file__).parents[1] / "tests" / "fixtures" / "ollama_generations.jsonl.gz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=Path, default=RECORDED, help="JSON lines of Ollama's answers")
    parser.add_argument("--teacher", default="smollm2", help="a folder, .gguf file or hub name")
    parser.add_argument("--student", help="the same, for its tokenizer; default: one trained on the spot")
    parser.add_argument("--limit", type=int, help="only the first so many answers")
    parser.add_argument("--mass", type=float, default=0.999)
    parser.add_argument("--max-k", type=int, default=64)
    chosen = parser.parse_args()
    with gzip.open(chosen.answers, "rt") as lines:
        answers = [json.loads(line) for line in lines][: chosen.limit]
    tokenizer, model = load_tokenizer(chosen.teacher), load_model(chosen.teacher).eval()
    teacher = spelling_of(tokenizer)
    student = spelling_of(load_tokenizer(chosen.student)) if chosen.student else other_family(tokenizer)
    begun = time.perf_counter()
    reader = reader_of(teacher, student)
    table = table_of(teacher, reader)
    print(f"tables, once: {time.perf_counter() - begun:.1f} s; vocabularies {len(teacher.texts)}, {len(student.texts)}")
    spent, shares, tokens = np.zeros(3), np.zeros((2, 2, len(BOUNDS) + 2)), 0
    for n, answer in enumerate([answers[0], *answers]):  # the first twice: once to warm up
        times, made = one(
            answer, model, tokenizer, teacher, student, Whole(teacher, reader, table, chosen.mass, chosen.max_k)
        )
        if n:
            spent, shares, tokens = spent + times, shares + made, tokens + answer["response"]["eval_count"]
    print(f"{tokens} tokens scored in {spent[0]:.2f} s")
    for name, seconds, both in zip(("seen whole", "cut rows"), spent[1:], shares, strict=True):
        print(f"{name}: translation takes {100 * seconds / spent[0]:.1f}% of scoring")
        for which, share in zip(("all bytes", "digits"), both, strict=True):
            said = zip((*(f"within {b:g}" for b in BOUNDS), "further", "unmatched"), share, strict=True)
            print(f"  {which}: " + ", ".join(f"{100 * s / share.sum():.1f}% {kind}" for kind, s in said))


def by_bound(made: Translation, student: Spelling) -> np.ndarray:
    """(2, bounds + 2) bytes of rows by how far their masses may be from the truth; of all tokens, and of digits."""
    place = np.where(made.trace.valid, np.searchsorted(BOUNDS, made.doubt), len(BOUNDS) + 1)
    digits = np.array([student.text(i).strip().isdigit() for i in made.trace.response_ids.tolist()])
    return np.stack([np.bincount(place, made.lengths * some, len(BOUNDS) + 2) for some in (1, digits)])


@torch.inference_mode()
def one(answer, model, tokenizer, teacher: Spelling, student: Spelling, whole: Whole) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of scoring, translating whole rows and cut ones; bytes by kind of the last two."""
    stopped = answer["response"]["done_reason"] == "stop"
    ids = [*teacher.cut([answer["response"]["response"].encode()])[0], *([teacher.end] if stopped else [])]
    # recorded prompts are SmolLM2's own; another teacher reads the question alone
    own = "<|im_start|>" in tokenizer.get_vocab()
    asked = answer["request"]["prompt"] if own else f"{tokenizer.bos_token}{answer['question']}\n"
    prompt = tokenizer.encode(asked, add_special_tokens=False)
    times = [time.perf_counter()]
    trace, log_p = scored(model, prompt, ids, "stop" if stopped else "length", whole)
    times.append(time.perf_counter())
    whole.add(log_p, np.array(ids))
    seen = whole.translate(trace, trace.prompt_ids)
    times.append(time.perf_counter())
    cut = translate(trace, teacher, student, trace.prompt_ids)
    times.append(time.perf_counter())
    return np.diff(times), np.stack([by_bound(made, student) for made in (seen, cut)])


def scored(model, prompt: list[int], ids: list[int], finish: str, whole: Whole) -> tuple[Trace, np.ndarray]:
    hidden = model.get_decoder()(input_ids=torch.tensor([prompt + ids])).last_hidden_state[0, len(prompt) - 1 : -1]
    z = logits(hidden, head_of(model))
    rows = top(z, torch.tensor(ids), whole.mass, whole.max_k, [])
    trace = to_trace(Request("0", "0", 0, 0, prompt, ids), ids, finish, rows)
    return trace, (z - z.logsumexp(-1, keepdim=True)).numpy()


def other_family(tokenizer: PreTrainedTokenizerFast) -> Spelling:
    """BPE trained on the words of SmolLM2's vocabulary, frequent ones more often, with numbers in groups of three."""
    words = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])[17:]
    texts = [tokenizer.convert_tokens_to_string([word]) for word, _ in words]
    corpus = [text for n, text in enumerate(texts) for _ in range(1 + 20_000 // (n + 100))]
    corpus += [str(n) for n in range(1000)]
    made = Tokenizer(models.BPE())
    pattern = Regex(r"\p{N}{1,3}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=30_000, initial_alphabet=alphabet, show_progress=False)
    )
    return spelling_of(PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>"))


if __name__ == "__main__":
    main()
