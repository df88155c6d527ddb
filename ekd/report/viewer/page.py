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

from ekd.models.token_kinds import KINDS
from ekd.report.viewer.shades import darkest, means, token_shades
from ekd.report.viewer.spelling import ViewerSpelling, question
from ekd.report.viewer.student_view import StudentView
from ekd.store import certainty
from ekd.store.inspection import alignment
from ekd.store.store import Store
from ekd.types import Trace

HERE = Path(__file__).parent
SCRIPTS = (
    "data",
    "choose",
    "words",
    "reader",
    "card",
    "keys",
    "list",
    "overview",
    "link",
    "begin",
)  # one after another
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
    rest: str = ""  # where some of the store's traces are left out: how to see them


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
    shades = [token_shades(trace, view) for trace, view in zip(traces, student, strict=True)]
    lines = [
        line(trace, spelling, instruction, grade) | {"means": means(found)}
        for trace, found in zip(traces, shades, strict=True)
    ]
    spelt = ((i, *spelling.token(i), KINDS.index(spelling.kind(i))) for i in place)
    head = {
        "about": about(store, subject, top) | {"shades": darkest(shades)},
        "kinds": KINDS,
        "tokens": [list(column) for column in zip(*spelt, strict=True)],
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
    style, markup = ((HERE / f"viewer.{kind}").read_text(encoding="utf-8") for kind in ("css", "html"))
    script = "\n".join((HERE / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    before, after = markup.split("<script>SCRIPT</script>")
    yield before.replace("SCRIPT_DIGEST", f"'sha256-{digest}'").replace("STYLE", f"\n{style}", 1)
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


def about(store: Store, subject: Subject, top: int) -> dict[str, Any]:
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
    }


def setting(origin: dict[str, Any], group: str, name: str) -> Any:
    """A value of a store's origin, "" where its maker did not say: only stores made by ekd.trace have groups."""
    values = origin.get(group)
    return values.get(name, "") if isinstance(values, dict) else ""


def line(trace: Trace, spelling: ViewerSpelling, instruction: str, grade: Grader | None) -> dict[str, Any]:
    """What the list, the search and the filters need to know of a trace."""
    stretches, response = spelling.stretches(trace.prompt_ids.tolist()), spelling.text(trace.response_ids.tolist())
    prompt = "".join(stretches)
    graded = Graded("unknown") if grade is None else grade(trace, prompt, response)
    if graded.status == "unknown":
        graded = Graded(trace.verdict or "unknown")  # what was said when it was traced
    read = trace.teacher_prompt_ids
    return {
        "id": trace.problem_id,
        "key": trace.key,
        "sample": trace.sample,
        "finish": trace.finish,
        "exact": trace.exact,
        "rows": len(trace.response_ids),
        "question": question(stretches, instruction),
        "prompt": prompt,
        "read": "" if read is None else "".join(spelling.stretches(read.tolist())),
        "policy": trace.policy,
        "contrast": trace.contrast is not None,
        "said": trace.log_q is not None,
        "response": response,
        **graded._asdict(),
    }
