r"""How other graders judge the hard cases of tests/fixtures/grading.jsonl, as the Markdown table in docs/evaluation.md.

    python scripts/grading_table.py           # the table
    python scripts/grading_table.py --list    # and every disagreement

Math-Verify reads and compares by itself. lm-evaluation-harness's patterns are repeated from its 0.4.13 (gsm8k.yaml,
minerva_math/utils.py), so that it need not be installed: gsm8k's are compared as gsm8k does it (as text, without
commas, dollar signs, what stands before "#### " and a last stop), minerva_math's by ekd's `same`, which is kinder.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from math_verify import parse, verify

from ekd.dataset.grading import grade, same

CASES = Path(__file__).parents[1] / "tests" / "fixtures" / "grading.jsonl"
GSM8K_IGNORES = (",", r"\$", r"(?s).*#### ", r"\.$")


def ekd(answer: str, response: str) -> bool:
    return grade(answer, response).status == "correct"


def math_verify(answer: str, response: str) -> bool:
    """The reference as mathematics, the response as it is, everything at its default."""
    return bool(verify(parse(f"${answer}$"), parse(response)))


def gsm8k_strict(answer: str, response: str) -> bool:
    found = re.search(r"#### (\-?[0-9\.\,]+)", response)
    return found is not None and _exact(answer, found[1])


def gsm8k_flexible(answer: str, response: str) -> bool:
    found = re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", response)
    return bool(found) and _exact(answer, found[-1][0] or found[-1][1])


def minerva_math(answer: str, response: str) -> bool:
    asked = "I hope it is correct."
    found = re.search(r"Final Answer: The final answer is(.*?). I hope it is correct.", response + asked)
    return found is not None and same(answer, found[1].strip())


JUDGES: dict[str, Callable[[str, str], bool]] = {
    "ekd": ekd,
    "Math-Verify": math_verify,
    "gsm8k strict": gsm8k_strict,
    "gsm8k flexible": gsm8k_flexible,
    "minerva_math": minerva_math,
}


def _exact(answer: str, given: str) -> bool:
    for pattern in GSM8K_IGNORES:
        answer, given = re.sub(pattern, "", answer), re.sub(pattern, "", given)
    return answer.lower() == given.lower()


def table(cases: list[dict[str, str]], judged: dict[str, list[bool]]) -> str:
    """A row for each kind: of how many right answers each judge took how many for wrong, and the other way round."""
    kinds: dict[str, list[int]] = defaultdict(list)
    for number, case in enumerate(cases):
        kinds[case["kind"]].append(number)
    rows = [f"| kind | right, wrong | {' | '.join(JUDGES)} |", "|---" * (len(JUDGES) + 2) + "|"]
    for kind, numbers in [*kinds.items(), ("all", list(range(len(cases))))]:
        right = [n for n in numbers if cases[n]["verdict"] == "correct"]
        wrong = [n for n in numbers if cases[n]["verdict"] != "correct"]
        cells = [
            f"{sum(not verdicts[n] for n in right)}, {sum(verdicts[n] for n in wrong)}" for verdicts in judged.values()
        ]
        rows.append(f"| {kind} | {len(right)}, {len(wrong)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def disagreements(cases: list[dict[str, str]], judged: dict[str, list[bool]]) -> str:
    lines = []
    for number, case in enumerate(cases):
        against = [name for name in JUDGES if judged[name][number] != (case["verdict"] == "correct")]
        if against:
            lines.append(f"{case['answer']!r} <- {case['response']!r}: {case['verdict']}, not so {', '.join(against)}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="every disagreement, too")
    arguments = parser.parse_args()
    logging.disable(logging.ERROR)
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    judged = {name: [judge(case["answer"], case["response"]) for case in cases] for name, judge in JUDGES.items()}
    print(table(cases, judged))
    if arguments.list:
        print(disagreements(cases, judged))


if __name__ == "__main__":
    main()
