"""Every answer of a benchmark for a page: data that the page's script lays out as a reader comes to it."""

from __future__ import annotations

import base64
import gzip
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ekd.eval.answers import Answer, Key

BLOCK = 20  # problems that are unpacked together
SHADED = 400_000  # tokens whose entropy travels with the page, about 2 MB of it; answers beyond have their text alone
VERDICTS = {"correct": "right", "wrong": "wrong"}
ENDS = {"blank": "one is blank", "endless": "one repeats itself without end", "cut": "one is cut off"}
Known = Mapping[str, Mapping[Key, Answer]]  # by who answered


def answers_sheet(known: Known, order: Sequence[Key]) -> dict[str, Any]:
    """What `answers` of template/parts.html takes. order: the problems, and in which order they are shown."""
    masks = ["".join("1" if is_right(by.get(key)) else "0" for by in known.values()) for key in order]
    ends = [sorted({end for by in known.values() if key in by for end in bad_ends(by[key])}) for key in order]
    lines, shaded = [], 0
    for key in order:
        answers = [by.get(key) for by in known.values()]
        shaded += sum(len(one.entropy) for one in answers if one is not None)
        lines.append(problem_line(key, answers, shaded <= SHADED))
    count = Counter(end for some in ends for end in some)
    return {
        "index": compressed({"who": list(known), "right": masks, "ends": ends, "block": BLOCK}),
        "blocks": [compressed(lines[at : at + BLOCK]) for at in range(0, len(lines), BLOCK)],
        "problems": len(order),
        "right": [("", f"all {len(order)}"), *((m, f"{who_is_right(m, list(known))}: {n}") for m, n in by_mask(masks))],
        "ended": [
            ("", "of any ending"),
            *((e, f"{words}: {count[e]}") for e, words in ENDS.items() if count[e]),
        ],
        "note": note(known, shaded),
    }


def by_mask(masks: Sequence[str]) -> list[tuple[str, int]]:
    """From what all solved to what nobody solved."""
    return sorted(Counter(masks).items(), key=lambda pair: (-pair[0].count("1"), pair[0]))


def who_is_right(mask: str, who: Sequence[str]) -> str:
    right = [name for name, bit in zip(who, mask, strict=True) if bit == "1"]
    if len(who) > 1 and len(right) == len(who):
        return "all right"
    if not right:
        return "none right"
    return f"{'only ' if len(who) > 1 else ''}{' and '.join(right)} right"


def is_right(answer: Answer | None) -> bool:
    return answer is not None and answer.status == "correct"


def bad_ends(answer: Answer) -> list[str]:
    """Keys of ENDS."""
    found = {"blank": not answer.text.strip(), "endless": answer.endless, "cut": answer.finish == "length"}
    return [name for name, true in found.items() if true]


def problem_line(key: Key, answers: Sequence[Answer | None], shaded: bool) -> list[Any]:
    """Name, right answer, question, and of each who answered what the script's `column` takes."""
    one = next(answer for answer in answers if answer is not None)
    name = key[0] + (f", answer {key[1] + 1}" if key[1] else "")
    return [name, one.reference, last_user_turn(one.prompt), [column(answer, shaded) for answer in answers]]


def column(answer: Answer | None, shaded: bool) -> list[Any] | None:
    """Verdict, detail, whether it is folded, and its text or its tokens with their entropy."""
    if answer is None:
        return None
    said = f"said {answer.extracted}; " if answer.extracted else ""
    cut = ", repeats itself without end" if answer.endless else ", cut off" if answer.finish == "length" else ""
    blank = not answer.text.strip()
    detail = f"{said}{answer.tokens} tokens{', blank' if blank else cut}"
    head = [VERDICTS.get(answer.status, "no answer found"), detail, int(answer.endless or blank)]
    if not shaded or not answer.entropy:
        return [*head, answer.text.strip()]
    pairs = [(piece, nats) for piece, nats in zip(answer.pieces, answer.entropy, strict=True) if piece]
    return [*head, [piece for piece, _ in pairs], [round(nats, 2) for _, nats in pairs]]


def note(known: Known, tokens: int) -> str:
    if not tokens:
        return ""
    rest = f" The first {SHADED:,} tokens are shaded, to keep the page small." if tokens > SHADED else ""
    return f"The darker a token, the less sure its writer was of it (entropy; hover for nats).{rest}"


def last_user_turn(prompt: str) -> str:
    """The last turn of the user, where the marks of a chat template show it; else the whole prompt."""
    turn = prompt.rpartition("<|im_start|>user\n")[2]
    return turn.partition("<|im_end|>")[0].strip()


def compressed(data: Any) -> str:
    """Compressed, in an alphabet without `<`: whatever an answer says, it is no part of the page."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(gzip.compress(text.encode("utf-8", "surrogatepass"), 6, mtime=0)).decode()
