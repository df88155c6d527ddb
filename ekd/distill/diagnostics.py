"""What a selector really chooses, on held-out rows: validation has the student's view of every row, so no pass more."""

from __future__ import annotations

import copy
import re

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from ekd.models.load import load_tokenizer
from ekd.models.segments import rank, segments
from ekd.models.token_kinds import KINDS, kind_table, token_texts
from ekd.types import NeedsAgreement, Rows, Selector, Signal

SIDES = ("chosen", "left")  # rows that the selector takes, rows that it leaves
TOP = 0.2  # the share that overlaps are measured against


class Diagnostics(nn.Module):
    """Means over held-out rows, collected by `update` and read by `compute`; names are paths below `choice/`.

    share                      rows chosen
    teacher_entropy/SIDE       mean H(p), nats           student_entropy/SIDE    mean H(q), nats
    kl/decile0 ... decile9     mean KL of the rows in each tenth of their sequence by teacher entropy
    kl/SIDE/decile0 ...        the same, of the rows chosen and of those left
    mass/teacher, mass/student on the ids that the teacher's row names
    overlap/teacher_top20      share of the chosen rows that are among their sequence's 20% by teacher entropy; the
    overlap/student_top20      same by student entropy; and among a random 20%, which shows what chance gives
    overlap/random20
    kind/SIDE/digits ...       what the chosen and the left tokens are; kind/SIDE/sentence_start: first of a sentence
    """

    def __init__(self, tokenizer: str, trust_remote_code: bool = False) -> None:
        super().__init__()
        self.tokenizer, self.trust_remote_code = tokenizer, trust_remote_code
        self.kinds: Tensor | None = None  # (V,) index into KINDS
        self.closes: Tensor | None = None  # (V,) bool, a sentence ends with this token
        names = ["share", "mass/teacher", "mass/student"]
        names += [f"{what}/{side}" for what in ("teacher_entropy", "student_entropy") for side in SIDES]
        names += [f"kl/{side}decile{d}" for side in ("", "chosen/", "left/") for d in range(10)]
        names += [f"overlap/{name}" for name in ("teacher_top20", "student_top20", "random20")]
        names += [f"kind/{side}/{kind}" for side in SIDES for kind in (*KINDS, "sentence_start")]
        self.means = nn.ModuleDict({name.replace("/", "|"): MeanMetric() for name in names})

    @torch.no_grad()
    def update(self, rows: Rows, kl: Tensor, signal: Signal, selector: Selector) -> None:
        """rows: valid ones with `student` filled; kl (R,). The memory of signal and selector is not touched.

        Of a signal that compares several teachers nothing is chosen in held-out rows, which have one.
        """
        assert rows.student is not None
        self._mean("mass/teacher", 1 - rows.teacher_logprobs[:, -1].exp())
        self._mean("mass/student", 1 - rows.student.log_q[:, -1].exp())
        teacher = place_in_sequence(rows.teacher_entropy, rows)
        for d in range(10):
            self._mean(f"kl/decile{d}", kl[(10 * teacher).long() == d])
        if rows.agreement is not None or not (isinstance(signal, NeedsAgreement) and signal.needs_agreement):
            chosen = copy.deepcopy(selector)(copy.deepcopy(signal)(rows), rows.sequence) > 0
            self._choice(rows, kl, chosen, teacher)

    def _choice(self, rows: Rows, kl: Tensor, chosen: Tensor, teacher: Tensor) -> None:
        """chosen (R,) bool; teacher (R,): each row's place by teacher entropy."""
        assert rows.student is not None
        self._mean("share", chosen)
        for name, where in (
            ("teacher_top20", teacher >= 1 - TOP),
            ("student_top20", place_in_sequence(rows.student.entropy, rows) >= 1 - TOP),
            ("random20", torch.rand(len(chosen), generator=torch.Generator().manual_seed(0)).to(teacher) < TOP),
        ):
            self._mean(f"overlap/{name}", where[chosen])
        decile = (10 * teacher).long()
        kinds, starts = self._kinds(rows)
        for side, rows_of in zip(SIDES, (chosen, ~chosen), strict=True):
            for d in range(10):
                self._mean(f"kl/{side}/decile{d}", kl[rows_of & (decile == d)])
            self._mean(f"teacher_entropy/{side}", rows.teacher_entropy[rows_of])
            self._mean(f"student_entropy/{side}", rows.student.entropy[rows_of])
            self._mean(f"kind/{side}/sentence_start", starts[rows_of])
            for index, kind in enumerate(KINDS):
                self._mean(f"kind/{side}/{kind}", kinds[rows_of] == index)

    def compute(self) -> dict[str, Tensor]:
        """The means, over ranks; a name that no row belongs to is left out. Starts anew afterwards."""
        found = {}
        for name, mean in self.means.items():
            assert isinstance(mean, MeanMetric)
            if mean.update_called:
                found[f"choice/{name.replace('|', '/')}"] = mean.compute()
                mean.reset()
        return found

    def _mean(self, name: str, values: Tensor) -> None:
        mean = self.means[name.replace("/", "|")]
        assert isinstance(mean, MeanMetric)
        if values.numel():
            mean.update(values.float())

    def _kinds(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """(R,) kind of each token, and whether it is the first of a sentence."""
        if self.kinds is None or self.closes is None:
            self.kinds, self.closes = (table.to(rows.target.device) for table in self._tables(rows.vocab))
        before = torch.roll(rows.target, 1)
        return self.kinds[rows.target], (rows.position == 0) | self.closes[before]

    def _tables(self, vocab: int) -> tuple[Tensor, Tensor]:
        tokenizer = load_tokenizer(self.tokenizer, trust_remote_code=self.trust_remote_code)
        texts = token_texts(tokenizer, vocab)
        return kind_table(texts), torch.tensor([closes(text) for text in texts])


def closes(token: str) -> bool:
    return re.search(r"[.!?:]\s*$|\n", token) is not None


def place_in_sequence(score: Tensor, rows: Rows) -> Tensor:
    """(R,) each row's place in its sequence by rising score, 0 <= place < 1; ties by position."""
    runs = segments(rows.sequence)
    return rank(score, runs, descending=False) / runs.size[runs.member]
