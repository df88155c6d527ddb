"""Do the ids of a store mean the same to another tokenizer? Equal hashes, or one vocabulary a prefix of the other."""

from __future__ import annotations

import hashlib
from typing import Any

BLOCK = 4096  # a hash of the vocabulary's beginning every so many ids


def tokenizer_fingerprint(tokenizer: Any) -> dict[str, Any]:
    """What identifies a transformers tokenizer, as plain JSON values: for a store's origin.

    `prefixes` are hashes of the vocabulary's first 4096, 8192, ... ids and of the part before the added tokens.
    """
    tokens = vocabulary(tokenizer)
    base = int(tokenizer.vocab_size)
    ends = sorted({*range(BLOCK, len(tokens) + 1, BLOCK), min(base, len(tokens)), len(tokens)})
    added = {str(i): str(token) for i, token in sorted(tokenizer.added_tokens_decoder.items())}
    prefixes = hashes(tokens, ends)
    whole = hashlib.sha256(repr((prefixes[str(len(tokens))], added)).encode()).hexdigest()
    return {"size": len(tokens), "sha256": whole, "end": str(tokenizer.eos_token), "added": added, "prefixes": prefixes}


def check_tokenizer(origin: dict[str, Any], tokenizer: Any) -> None:
    """Raises ValueError, one sentence, when the ids of a store would mean something else to `tokenizer`.

    A vocabulary that only adds tokens at the end (Qwen: 151,669 tokens, heads of 151,936 or 152,064 rows) fits.
    """
    theirs, ours = origin.get("tokenizer"), tokenizer_fingerprint(tokenizer)
    if not isinstance(theirs, dict) or "prefixes" not in theirs:
        raise ValueError("the store's origin has no tokenizer fingerprint, so its ids cannot be trusted: trace again")
    if theirs["sha256"] == ours["sha256"]:
        return
    tokens = vocabulary(tokenizer)
    shared = [int(end) for end in theirs["prefixes"] if int(end) <= len(tokens)]
    mine = hashes(tokens, shared)
    wrong = [end for end in sorted(shared) if mine[str(end)] != theirs["prefixes"][str(end)]]
    added = [
        f"id {i} is {token!r} in the traces, {tokens[int(i)]!r} here"
        for i, token in theirs["added"].items()
        if int(i) < len(tokens) and tokens[int(i)] != token
    ]
    if wrong or not shared:
        added.insert(0, f"their first {wrong[0] if wrong else BLOCK:,} tokens are not the same")
    if added:
        raise ValueError(
            f"the tokenizers differ: the traces' has {theirs['size']:,} tokens, this one {ours['size']:,}, and "
            f"{'; '.join(added[:2])}: use a student of the teacher's family, or trace with a teacher of the student's"
        )


def vocabulary(tokenizer: Any) -> list[str]:
    """Every token by id; an id without a token (a hole) is ''."""
    ids = tokenizer.get_vocab()
    tokens = [""] * (max(ids.values()) + 1)
    for token, i in ids.items():
        tokens[i] = token
    return tokens


def hashes(tokens: list[str], ends: list[int]) -> dict[str, str]:
    """The hash of tokens[:end] for each end, in one pass."""
    running, at, out = hashlib.sha256(), 0, {}
    for end in sorted(ends):
        running.update("".join(f"{len(token)}:{token}" for token in tokens[at:end]).encode("utf-8", "surrogatepass"))
        at, out[str(end)] = end, running.copy().hexdigest()[:16]
    return out
