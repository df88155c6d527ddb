"""The token viewer: a store's solutions as one page that needs no server, every token shaded by what is known of it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ekd.report.viewer.spelling import ViewerSpelling, question
from ekd.report.viewer.student_view import StudentView
from ekd.store import certainty
from ekd.store.inspection import alignment
from ekd.store.store import Store
from ekd.types import Trace

TEMPLATE = Path(__file__).with_name("viewer.html")
STEPS = 2048  # a nat: in the page an alternative's logprob is at most 1/4096 nat off, below what a store keeps
LEAST = 65535  # the code of a probability below e^-32, which is shown as 0


class Graded(NamedTuple):
    status: str  # correct, wrong, unparseable or unknown
    extracted: str = ""  # what was read as the answer
    answer: str = ""  # the right one


Grader = Callable[[Trace, str, str], Graded]  # the trace, its prompt and its response as text


class Subject(NamedTuple):
    """What the page is about, beside the traces themselves."""

    name: str  # of the store
    graded: str  # "": by `grade`; else a sentence that says why correctness is unknown
    student: str  # whose view is shown; "" for nobody's


def chosen_keys(store: Store, limit: int) -> list[str]:
    """The first `limit` traces in the order of problems (their numbers count as numbers) and samples."""
    if limit < 1:
        raise ValueError(f"limit (traces on the page) is 1 or more, not {limit}")
    place: dict[str, tuple[list[tuple[float, str]], int, str]] = {}
    keys = store.keys()
    for file in store.shards:
        shard = store.shard(file)
        columns = (shard.column(name) for name in ("key", "problem_id", "sample"))
        place |= {key: (natural(problem), sample, key) for key, problem, sample in zip(*columns, strict=True)}
    if not keys:
        raise ValueError(f"{store.path} holds no trace yet: collect some with `python -m ekd.trace`")
    return sorted(keys, key=place.__getitem__)[:limit]


def natural(name: str) -> list[tuple[float, str]]:
    """problem-9 before problem-10."""
    return [(int(part), "") if part.isdecimal() else (inf, part) for part in re.split(r"([0-9]+)", name) if part]


def write_page(
    out: Path,
    store: Store,
    traces: Sequence[Trace],
    spelling: ViewerSpelling,
    subject: Subject,
    *,
    top: int,
    grade: Grader | None = None,
    views: Sequence[StudentView] | None = None,
) -> Path:
    """Writes `out`/traces.html. top: alternatives of each token that the page can show, beside the token itself."""
    if top < 1:
        raise ValueError(f"top (alternatives shown of each token) is 1 or more, not {top}")
    place = {i: at for at, i in enumerate(used(traces, top, views))}
    student: Sequence[StudentView | None] = [None] * len(traces) if views is None else views
    blobs = [
        pack_trace(trace, store.layout.vocab, top, place, view) for trace, view in zip(traces, student, strict=True)
    ]
    instruction = str(setting(store.origin, "prompt", "instruction"))
    lines = [line(trace, spelling, instruction, grade) for trace in traces]
    if grade is not None and all(found["status"] == "unknown" for found in lines):
        raise ValueError(
            f"none of the problems of {store.path} is the dataset's: give the one that posed them, with the path or "
            f"seed that it had then (the store names {store.origin.get('dataset', 'none')}), or leave dataset= out"
        )
    head = {
        "about": about(store, traces, subject, top) | {"shades": shades(traces, views)},
        "tokens": [list(column) for column in zip(*((i, *spelling.token(i)) for i in place), strict=True)],
        "traces": lines,
    }
    out.mkdir(parents=True, exist_ok=True)
    page = out / "traces.html"
    page.write_text("".join(assemble_page(head, blobs)), encoding="utf-8")
    return page


def assemble_page(head: dict[str, Any], blobs: Sequence[bytes]) -> Iterator[str]:
    """The page. All data is compressed and in base64, whose alphabet has no `<`: text stays text, whatever it says.

    Nothing but the template's own script can run in it and nothing can be fetched: its Content-Security-Policy.
    """
    before, script, after = re.split("<script>|</script>", TEMPLATE.read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    yield before.replace("SCRIPT_DIGEST", f"'sha256-{digest}'")
    yield block("head", json.dumps(head, separators=(",", ":")).encode())
    for at, blob in enumerate(blobs):
        yield block(f"trace{at}", blob)
    yield f"<script>{script}</script>{after}"


def block(name: str, data: bytes) -> str:
    coded = base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()
    return f'<script type="application/gzip" id="{name}">{coded}</script>\n'


def used(traces: Sequence[Trace], top: int, views: Sequence[StudentView] | None) -> list[int]:
    """Every id that the page can show, ascending."""
    some = [trace.ids[shown_ids(trace, top)] for trace in traces] + [view.argmax for view in views or ()]
    return [int(one) for one in np.unique(np.concatenate([np.zeros(0, np.int64), *some]))]


def shown_ids(trace: Trace, top: int) -> np.ndarray:
    """(sum counts,) bool: the token itself and its `top` likeliest alternatives."""
    first = np.cumsum(trace.counts) - trace.counts
    shown: np.ndarray = np.arange(len(trace.ids)) - np.repeat(first, trace.counts) <= top
    return shown


def pack_trace(trace: Trace, vocab: int, top: int, place: dict[int, int], view: StudentView | None) -> bytes:
    """One trace as the page reads it: little-endian arrays one after the other, 4-byte ones first.

    n rows, k kept entries; [ ] only where entropies are known between bounds, ( ) only with a student, { } each only
    where the trace has it:
    f4 (n,): entropy, logprob of the token, log_tail, mass named but not kept, [least, most], (entropy, kl, log_rest),
    {contrast}, {log_q}
    u4 (n,): entries named, (first choice); u2: entries kept (n,), token (k,) low and high half, code (k,), (code (k,))
    u1 (n,): valid
    """
    keep, first = shown_ids(trace, top), np.cumsum(trace.counts) - trace.counts
    mass = np.where(keep, 0.0, np.exp(trace.logprobs.astype(np.float64)))
    hidden = np.add.reduceat(mass, first) if len(first) else mass
    token = np.array([place[i] for i in trace.ids[keep].tolist()], np.int64)
    rows = [trace.entropy, trace.logprobs[first], trace.log_tail, hidden]
    rows += [] if trace.exact else list(certainty.bounds(trace, vocab))
    counts, halves = [trace.counts], [np.minimum(trace.counts, top + 1), token & 0xFFFF, token >> 16]
    halves.append(logprob_codes(trace.logprobs[keep]))
    if view is not None:
        rows += [view.entropy, view.kl, view.log_rest]
        counts.append(np.array([place[i] for i in view.argmax.tolist()]))
        halves.append(logprob_codes(view.log_q[keep]))
    rows += [some for some in (trace.contrast, trace.log_q) if some is not None]
    parts = [a.astype("<f4") for a in rows] + [a.astype("<u4") for a in counts] + [a.astype("<u2") for a in halves]
    return b"".join(part.tobytes() for part in [*parts, trace.valid.astype("u1")])


def logprob_codes(logprobs: np.ndarray) -> np.ndarray:
    """Nats below 0 in steps of 1/2048."""
    steps: np.ndarray = np.minimum(np.rint(np.minimum(-logprobs.astype(np.float64), 1e3) * STEPS), LEAST)
    return steps


def about(store: Store, traces: Sequence[Trace], subject: Subject, top: int) -> dict[str, Any]:
    known = np.concatenate([np.zeros(0, np.float32), *(trace.entropy[trace.valid] for trace in traces)])
    return {
        **subject._asdict(),
        "total": len(store),
        "teacher": store.teacher,
        "mode": str(setting(store.origin, "teacher", "mode")),
        "align": alignment(store.origin) if "align" in store.origin else "",
        "dataset": str(store.origin.get("dataset", "")),
        "draws": store.layout.draws,
        "top": top,
        "vocab": store.layout.vocab,
        "darkest": darkest(known),
    }


def shades(traces: Sequence[Trace], views: Sequence[StudentView] | None) -> list[tuple[str, str, float]]:
    """What tokens may be shaded by: its name in the page, in words, and the darkest shade's nats."""
    log_p = [t.logprobs[np.cumsum(t.counts) - t.counts] for t in traces]
    pairs = list(zip(traces, log_p, strict=True))
    gaps = [np.abs(p - t.contrast)[t.valid] for t, p in pairs if t.contrast is not None]
    own = [np.abs(t.log_q - p)[t.valid] for t, p in pairs if t.log_q is not None]
    found = [
        ("entropy", "teacher entropy", [t.entropy[t.valid] for t in traces]),
        ("sEntropy", "student entropy", [view.entropy for view in views or ()]),
        ("kl", "KL(teacher, student)", [view.kl for view in views or ()]),
        ("gap", "what the second prompt changes", gaps),
        ("own", "writer against teacher", own),
    ]
    return [(name, words, darkest(np.concatenate(some))) for name, words, some in found if some]


def darkest(nats: np.ndarray) -> float:
    """The darkest shade is for the highest hundredth; in whole halves of a nat, so that the legend is readable."""
    known = nats[np.isfinite(nats)]
    return float(np.ceil(2 * np.percentile(known, 99)) / 2) or 0.5 if len(known) else 0.5


def setting(origin: dict[str, Any], group: str, name: str) -> Any:
    """A value of a store's origin, "" where its maker did not say: only stores made by ekd.trace have groups."""
    values = origin.get(group)
    return values.get(name, "") if isinstance(values, dict) else ""


def line(trace: Trace, spelling: ViewerSpelling, instruction: str, grade: Grader | None) -> dict[str, Any]:
    """What the list, the search and the filters need to know of a trace."""
    stretches, response = spelling.stretches(trace.prompt_ids.tolist()), spelling.text(trace.response_ids.tolist())
    known, prompt = trace.entropy[trace.valid], "".join(stretches)
    stored = Graded(trace.verdict or "unknown")  # what was said when it was traced
    graded = stored if grade is None else grade(trace, prompt, response)
    read = trace.teacher_prompt_ids
    return {
        "id": trace.problem_id,
        "key": trace.key,
        "sample": trace.sample,
        "finish": trace.finish,
        "exact": trace.exact,
        "rows": len(trace.response_ids),
        "mean": float(known.mean(dtype=np.float64)) if len(known) else None,
        "question": question(stretches, instruction),
        "prompt": prompt,
        "read": "" if read is None else "".join(spelling.stretches(read.tolist())),
        "policy": trace.policy,
        "contrast": trace.contrast is not None,
        "said": trace.log_q is not None,
        "response": response,
        **graded._asdict(),
    }
