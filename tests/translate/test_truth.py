"""Against the truth of a toy world, summed over every continuation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from toy import Toy, World, common, greedy, row_of, told, trace_of, truth, vocabularies, whole_rows, world

import ekd.translate.whole
from ekd.translate.reading import Reader
from ekd.translate.spelling import Spelling
from ekd.translate.translation import Translation, translate
from ekd.translate.whole import Whole, table_of

FARTHEST = 9  # bytes ahead that can be summed over


def some(count: int) -> Iterator[tuple[World, Toy, Spelling, Spelling]]:
    for seed in range(count):
        random = np.random.default_rng(seed)
        nature, (teacher, student) = world(random), vocabularies(random)
        toy = told(nature, nature.write(16, random), teacher, student, 7)
        if toy.text:
            yield nature, toy, teacher, student


def compare(made: Translation, nature: World, toy: Toy, teacher: Spelling, student: Spelling) -> list[float]:
    """Each row to the truth; -> their doubts."""
    words, tokens, doubts = greedy(toy.text, student), [teacher.texts[i] for i in toy.ids], []
    assert made.trace.response_ids.tolist() == [student.texts.index(word) for word in words]
    for row in range(len(words)):
        at = len(b"".join(words[:row]))
        begin = max(end for end in common(tokens, words) if end <= at)
        first, start = (next(n for n in range(9) if len(b"".join(side[:n])) == begin) for side in (words, tokens))
        if at - begin + 6 > FARTHEST:
            continue
        right = truth(nature, toy, teacher, student, begin, words[first:row], start)
        said, doubt = row_of(made.trace, row), float(made.doubt[row])
        for i, p in said.items():
            assert abs(right.get(i, 0.0) - p) <= doubt + 2e-6
        unsaid = 1 - sum(right.get(i, 0.0) for i in said)
        assert abs(unsaid - np.exp(made.trace.log_tail[row])) <= len(said) * doubt + 2e-5
        doubts.append(doubt)
    return doubts


@pytest.mark.parametrize("top", [None, 2])
def test_rows_are_no_further_from_the_truth_than_they_say(top):
    doubts = []
    for nature, toy, teacher, student in some(24):
        made = translate(trace_of(toy, top), teacher, student, np.zeros(1), least=0.0)
        doubts += compare(made, nature, toy, teacher, student)
    exact = sum(doubt < 1e-6 for doubt in doubts)
    assert len(doubts) > 90 and exact > (20 if top is None else 4)


def test_rows_of_a_teacher_that_is_seen_whole(monkeypatch):
    """Few words are followed one by one, so that the sums of the others count."""
    monkeypatch.setattr(ekd.translate.whole, "MOST_NAMED", 2)
    doubts = []
    for nature, toy, teacher, student in some(24):
        reader = Reader(student, teacher)
        whole = Whole(teacher, reader, table_of(teacher, reader), mass=1.0, max_k=99)
        rows = whole_rows(toy, len(teacher.texts) + 3)
        whole.add(rows[:2], np.array(toy.ids[:2]))
        whole.add(rows[2:], np.array(toy.ids[2:]))
        doubts += compare(whole.translate(trace_of(toy), np.zeros(1)), nature, toy, teacher, student)
    assert len(doubts) > 90 and sum(doubt < 1e-6 for doubt in doubts) > 20


def test_a_token_that_might_have_been_a_longer_one_says_how_likely():
    """ "ab" is the student's alone, so "a" of the teacher's is its "a" only where no "b" follows."""
    teacher, student = (Spelling([b"a", b"b", b"1", *more, b""], 3 + len(more)) for more in ([], [b"ab"]))
    nature = world(np.random.default_rng(0))
    toy = told(nature, b"aab1aab1", teacher, student, 4)
    made = translate(trace_of(toy), teacher, student, np.zeros(1), least=0.0)
    doubts = compare(made, nature, toy, teacher, student)
    p, then = toy.rows[0], toy.rows[1]  # of "a", and behind it
    assert doubts[0] == pytest.approx(p[0] * then[1], abs=1e-6) and doubts[0] > 0.01
