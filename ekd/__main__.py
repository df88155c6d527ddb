"""ekd COMMAND ...: one word for `python -m ekd.COMMAND ...`; and `ekd doctor`."""

from __future__ import annotations

import difflib
import runpy
import sys

COMMANDS = {
    "train": "trace what is missing, train the student on the chosen tokens, evaluate it",
    "trace": "let the teacher solve or read problems, and keep every token's probabilities",
    "evaluate": "let a model solve held-out problems; compare, perplexity, harness",
    "chat": "talk to a run's student, its teacher beside it",
    "report": "a page of a run, a sweep or a trace store",
    "store": "inspect, verify, repair, compact, merge, export and import traces",
    "export": "a student for transformers, GGUF or Ollama",
    "dashboard": "the W&B dashboard of a sweep, and a sweep for W&B's agents",
    "doctor": "what this machine has for ekd",
}


def main() -> None:
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print("usage: ekd COMMAND ...   (also: python -m ekd.COMMAND ...)\n")
        print(*(f"  {name:<11}{told}" for name, told in COMMANDS.items()), sep="\n")
        print("\nekd COMMAND --help says more; ekd train alone does the demo.")
        sys.exit(0)
    if words[0] not in COMMANDS:
        close = difflib.get_close_matches(words[0], COMMANDS, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        print(f"error: there is no ekd {words[0]}{hint}; there is {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    if words[0] == "doctor":
        from ekd.cli.doctor import main as doctor

        sys.exit(doctor(words[1:]))
    del sys.argv[1]
    runpy.run_module(f"ekd.{words[0]}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
