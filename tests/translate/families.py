"""Tokenizers made for a test, and texts that are hard on them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ekd.translate.said import said_by_ids
from ekd.translate.spelling import Spelling
from ekd.translate.translation import Translation
from ekd.types import Trace

SCRIPTS = (
    "the cat sat on the other mat", "Съешь ещё этих мягких булок", "Ξεσκεπάζω την ψυχοφθόρα", "זה כיף סתם לשמוע",
    "نص حكيم له سر قاطع", "हिन्दी में लिखा हुआ", "日本語の文章を書く", "ภาษาไทยเขียนติดกัน",
)  # fmt: skip
CODE = "def f(x):\n    return [x[i] + 1 for i in range(10)]\n\n\n"
EMOJI = "🦄👩\u200d👧 🏳️\u200d🌈 5️⃣"
CORPUS = [*SCRIPTS, CODE, EMOJI, *(f"{n} + {n * 7}" for n in (3, 12, 480, 99123, 123456789012))]

numbers = st.integers(1, 12).flatmap(lambda digits: st.integers(10 ** (digits - 1), 10**digits - 1)).map(str)
pieces = st.sampled_from([word for text in CORPUS for word in (text, *text.split(" "), " ")])
texts = st.lists(st.one_of(pieces, numbers, st.text(max_size=3)), min_size=1, max_size=6).map("".join).filter(bool)


def random_merges(seed: int, merges: int, by_words: bool) -> PreTrainedTokenizerFast:
    """Byte-level, with merges of pairs that stand in CORPUS somewhere, in no sensible order."""
    random = np.random.default_rng(seed)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = {symbol: i for i, symbol in enumerate(alphabet)}
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=by_words)
    words = [list(word) for text in CORPUS for word, _ in splitter.pre_tokenize_str(text)]
    chosen = []
    while len(chosen) < merges and (words := [word for word in words if len(word) > 1]):
        word = words[random.integers(len(words))]
        at = int(random.integers(len(word) - 1))
        pair = word[at], word[at + 1]
        if pair[0] + pair[1] not in made:
            chosen.append(pair)
            made[pair[0] + pair[1]] = len(made)
        words = [_merged(word, pair) for word in words]
    return _fast(Tokenizer(models.BPE(vocab=made, merges=chosen)), splitter)


def trained(texts: list[str], size: int, digits: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of these texts; numbers in groups of up to `digits`."""
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(rf"\p{{N}}{{1,{digits}}}| ?\p{{L}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = splitter
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return _fast(tokenizer, splitter)


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


def _fast(tokenizer: Tokenizer, splitter: pre_tokenizers.PreTokenizer) -> PreTrainedTokenizerFast:
    tokenizer.pre_tokenizer, tokenizer.decoder = splitter, decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")


def some_trace(text: str, teacher: Spelling, random: np.random.Generator, most: int = 8, stop: bool = True) -> Trace:
    """Random rows over a text: what came, and up to `most` others, some of which share its beginning."""
    response = [*teacher.cut([text.encode()])[0], *([teacher.end] if stop else [])]
    rows = [_row(i, teacher, random, most) for i in response]
    n = len(response)
    return Trace(
        key="0", problem_id="some", sample=0, finish="stop" if stop else "length", prompt_ids=np.zeros(2, np.int32),
        response_ids=np.array(response, np.int32), counts=np.array([len(ids) for ids, _, _ in rows], np.int32),
        ids=np.concatenate([ids for ids, _, _ in rows]).astype(np.int32),
        logprobs=np.concatenate([logs for _, logs, _ in rows]).astype(np.float32),
        log_tail=np.array([tail for _, _, tail in rows], np.float32), entropy=np.ones(n, np.float32),
        exact=True, valid=np.ones(n, bool), log_norm=np.zeros((n, 0), np.float32),
    )  # fmt: skip


def _row(came: int, teacher: Spelling, random: np.random.Generator, most: int) -> tuple:
    kin = [i for i, text in enumerate(teacher.texts) if text and text[:1] == teacher.texts[came][:1]]
    pool = {*random.choice(len(teacher.texts), most).tolist(), *random.permutation(kin)[: most // 2].tolist()} - {came}
    mass = random.dirichlet(np.full(len(pool) + 2, 0.3)).clip(1e-6)
    mass /= mass.sum()
    others = sorted(zip(pool, mass[2:], strict=True), key=lambda pair: -pair[1])
    ids = np.array([came, *(i for i, _ in others)])
    return ids, np.log([mass[0], *(m for _, m in others)]), np.log(mass[1])


def sums_between_common_ends(trace: Trace, teacher: Spelling, made: Translation, student: Spelling) -> list[tuple]:
    """(the teacher's summed logprob, the student's, whether all the student's rows are sound) between common ends."""
    said = said_by_ids(trace, teacher)
    ends = np.cumsum(said.lengths())
    own = np.cumsum([2 if i == student.end else len(student.texts[i]) for i in made.trace.response_ids.tolist()])
    logs = [t.logprobs[np.cumsum(t.counts) - t.counts].astype(np.float64) for t in (trace, made.trace)]
    found, last, last_own = [], 0, 0
    for end in sorted(set(ends.tolist()) & set(own.tolist())):
        stop, stop_own = int(np.searchsorted(ends, end)) + 1, int(np.searchsorted(own, end)) + 1
        sound = bool(made.trace.valid[last_own:stop_own].all())
        found.append((logs[0][last:stop].sum(), logs[1][last_own:stop_own].sum(), sound))
        last, last_own = stop, stop_own
    return found
