"""Traces of a teacher that never was: random logits over a small vocabulary, so that every number is consistent."""

from __future__ import annotations

import numpy as np

from ekd.types import Trace


def fake_trace(
    seed: int,
    rows: int = 30,
    vocab: int = 1000,
    most: int = 12,
    temperatures: tuple[float, ...] = (),
    draws: int = 0,
    unmatched: float = 0.1,
    exact: bool = True,
    scale: float = 4.0,
) -> Trace:
    """Rows of the top `most` ids (fewer where they hold 99% of the mass), or counts of `draws` draws."""
    random = np.random.default_rng(seed)
    log_p = random.normal(size=(rows, vocab)) * random.uniform(0.1, scale, (rows, 1))
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    p = np.exp(log_p)
    response = np.array([random.choice(vocab, p=row) for row in p], np.int32).reshape(rows)
    valid = random.random(rows) >= unmatched
    known = [
        one(log_p[r], int(response[r]), most, draws, random) if valid[r] else only(response[r]) for r in range(rows)
    ]
    entropy = np.where(valid, -(p * log_p).sum(1), 0)
    norms = [np.log(np.exp(log_p / t).sum(1)) for t in temperatures]
    return Trace(
        key=f"{seed:032x}",
        problem_id=f"problem/{seed}",
        sample=seed % 3,
        finish="stop" if seed % 2 else "length",
        prompt_ids=random.integers(0, vocab, random.integers(1, 20)).astype(np.int32),
        response_ids=response,
        counts=np.array([len(ids) for ids, _, _ in known], np.int32),
        ids=np.concatenate([np.zeros(0), *(ids for ids, _, _ in known)]).astype(np.int32),
        logprobs=np.concatenate([np.zeros(0), *(logs for _, logs, _ in known)]).astype(np.float32),
        log_tail=np.array([tail for _, _, tail in known], np.float32),
        entropy=entropy.astype(np.float32),
        exact=exact,
        valid=valid,
        log_norm=np.stack(norms, 1).astype(np.float32) if norms else np.zeros((rows, 0), np.float32),
    )


def one(log_p: np.ndarray, token: int, most: int, draws: int, random: np.random.Generator) -> tuple:
    if draws:
        counts = random.multinomial(draws, np.exp(log_p) / np.exp(log_p).sum())
        with np.errstate(divide="ignore"):
            log_p = np.log(counts / draws)
        falling = np.argsort(-log_p, kind="stable")[: int((counts > 0).sum())]
    else:
        falling = np.argsort(-log_p, kind="stable")
        falling = falling[: min(most, int((np.cumsum(np.exp(log_p[falling])) < 0.99).sum()) + 1)]
    ids = np.concatenate([[token], falling[falling != token]])
    rest = np.delete(np.exp(log_p), ids).sum() if not draws else 0.0
    return ids, log_p[ids], np.log(rest) if rest > 0 else -np.inf


def only(token: int) -> tuple:
    return np.array([token]), np.zeros(1), -np.inf


def same(a: Trace, b: Trace) -> bool:
    """Equal to the bit."""
    pairs = zip(a, b, strict=True)
    return all(x.tobytes() == y.tobytes() if isinstance(x, np.ndarray) else x == y for x, y in pairs)
