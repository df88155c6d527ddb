"""python -m ekd.store verify | inspect | repair | compact | merge | export | import: look after a store of traces."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ekd.mistakes import Parser, sentence
from ekd.outside import visible
from ekd.store.location import Location, location
from ekd.store.repair import repair, verify
from ekd.store.store import Store, lock

console = Console()


def main(arguments: Sequence[str] | None = None) -> int:
    """0: fine; 1: damage was found, or rows were refused; 2: it cannot be carried out, in one sentence; 130: Ctrl-C."""
    options = parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except (ValueError, OSError, ImportError, EOFError, RuntimeError) as error:  # of files, and of what reads them
        said = sentence(error)
        if said is None:
            raise
        print(f"error: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; what was written is whole", file=sys.stderr)
        return 130


def parser() -> Parser:
    top = Parser(prog="python -m ekd.store", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser("verify", help="checksums and every invariant of every trace; exit 1 when damaged")
    check.add_argument("path", type=place)
    check.set_defaults(run=run_verify)
    mend = commands.add_parser("repair", help="rebuild the manifest, keep sound traces, set damaged files aside")
    mend.add_argument("path", type=place)
    mend.set_defaults(run=run_repair)
    look = commands.add_parser("inspect", help="counts, bytes a token, entropies, three traces with forks marked")
    look.add_argument("path", type=place)
    look.add_argument("--tokenizer", help="hub name, folder or smollm2: shows text instead of ids")
    look.add_argument("--teacher-tokenizer", help="with --tokenizer, of translated rows: shows both readings of a text")
    look.add_argument("--topk", type=float, default=20.0, help="percent, for the share of certain decisions")
    look.add_argument("--bucket", type=float, nargs=2, default=(70.0, 80.0), help="two percentiles, for the same")
    look.set_defaults(run=run_inspect)
    fold = commands.add_parser("compact", help="what writers logged into the manifest, and what killed ones left")
    fold.add_argument("path", type=place)
    fold.set_defaults(run=run_compact)
    join = commands.add_parser("merge", help="stores of one origin into one, with few large shards")
    join.add_argument("paths", type=place, nargs="+")
    join.add_argument("-o", "--out", type=place, required=True)
    join.set_defaults(run=run_merge)
    give = commands.add_parser("export", help="plain Parquet or JSON lines for other tools (columns: docs/store.md)")
    give.add_argument("path", type=place)
    give.add_argument("-o", "--out", type=file, required=True, help="a file; JSON lines when it ends in .jsonl")
    give.set_defaults(run=run_export)
    take = commands.add_parser("import", help="a Hugging Face dataset with top-k ids and logprobs for each token")
    take.add_argument("source", help="folder of save_to_disk, .parquet, .json, .jsonl, or a hub name")
    take.add_argument("-o", "--out", type=place, required=True, help="the store")
    take.add_argument("--tokenizer", required=True, help="the tokenizer whose ids these are")
    take.add_argument("--vocab", type=int, required=True, help="entries of the teacher's softmax")
    take.add_argument("--teacher", required=True, help="what made the rows; kept in the origin")
    take.add_argument("--split", default="train")
    take.add_argument("--columns", nargs=4, default=("top_ids", "top_logprobs", "input_ids", "labels"))
    take.set_defaults(run=run_import)
    return top


def place(path: str) -> Location:
    try:
        return location(path)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def file(path: str) -> Path:
    """~ is the home folder; behind --out= no shell says so."""
    return Path(path).expanduser()


def say(line: str, style: str | None = None) -> None:
    """A line that may hold what others wrote."""
    console.print(visible(line), style=style, markup=False, highlight=False, soft_wrap=True)


def run_verify(options: argparse.Namespace) -> int:
    found = verify(options.path)
    for line in found.damage:
        say(line, "red")
    for line in found.notes:
        say(line, "dim")
    state = f"{len(found.damage)} problems, see above" if found.damage else "no damage"
    say(f"{options.path}: {found.traces:,} sound traces, {found.tokens:,} response tokens; {state}")
    return 1 if found.damage else 0


def run_repair(options: argparse.Namespace) -> int:
    for line in repair(options.path) or ["nothing was damaged"]:
        say(line)
    return 0


def run_inspect(options: argparse.Namespace) -> int:
    from ekd.store.inspection import store_report

    lower, upper = options.bucket
    if not (0 < options.topk <= 100 and 0 <= lower < upper <= 100):
        raise ValueError(f"percentages lie in 0 ... 100, not topk {options.topk}, bucket {lower} to {upper}")
    own, theirs = tokenizer(options.tokenizer), tokenizer(options.teacher_tokenizer)
    if own is None and theirs is not None:
        raise ValueError(
            f"--teacher-tokenizer {options.teacher_tokenizer} is read beside the student's: give --tokenizer, too"
        )
    for part in store_report(Store(options.path), options.topk, lower, upper, own, theirs):
        console.print(part)
    return 0


def tokenizer(name: str | None) -> Any:
    if name is None:
        return None
    from ekd.models.load import load_tokenizer  # heavy: imported when asked for

    return load_tokenizer(name)


def run_compact(options: argparse.Namespace) -> int:
    from ekd.store.log import fold
    from ekd.store.unsaved import recover

    store = Store(options.path)
    found = recover(store)
    with lock(store.path):
        fold(store.path)
    store.tidy()
    say(f"{options.path}: {len(store):,} traces in {len(store.shards):,} shards; {found:,} were left by killed writers")
    return 0


def run_merge(options: argparse.Namespace) -> int:
    from ekd.store.transfer import merge

    out = merge(options.paths, options.out)
    say(f"{options.out}: {len(out):,} traces in {len(out.shards)} shards")
    return 0


def run_export(options: argparse.Namespace) -> int:
    from ekd.store.transfer import export

    say(f"{options.out}: {export(Store(options.path), options.out):,} traces")
    return 0


def run_import(options: argparse.Namespace) -> int:
    from ekd.store.examples import load_examples
    from ekd.store.foreign import Columns, take
    from ekd.store.tokenizer import tokenizer_fingerprint

    fingerprint = tokenizer_fingerprint(tokenizer(options.tokenizer))
    origin = {"vocab": options.vocab, "teacher": options.teacher, "imported": options.source, "tokenizer": fingerprint}
    rows = load_examples(options.source, options.split)  # first: a source that is not there leaves no store
    store = Store.create(options.out, origin)
    refused = 0
    for where, why in take(rows, Columns(*options.columns), store):
        print(visible(f"{where}: {why}"), file=sys.stderr)
        refused += 1
    state = f"; {refused:,} rows are refused, see above" if refused else ""
    say(f"{options.out}: {len(store):,} traces{state}")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
