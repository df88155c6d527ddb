"""How much several teachers of one text agree on what comes next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ekd.types import Rows


@dataclass(frozen=True, kw_only=True)
class TeacherAgreement:
    """Needs the mean of several teachers (source=stores source.mean=true): `ekd.data.teachers.mean` makes the figure.

        1 - JSD / ln N,  JSD = H(sum_i p_i / N) - sum_i H(p_i) / N, over the N teachers i that know the row

    Over the ids that all of them name and the tail, where it is exact; over the whole vocabulary they agree as much or
    less. 1: they say the same, or one alone knows the row. 0: what one holds possible, no other does.

    Source: ours; the divergence of several distributions is that of Lin 1991, "Divergence measures based on the Shannon
    entropy", which is at most ln N.
    """

    needs_student: ClassVar[bool] = False
    needs_density: ClassVar[bool] = True
    needs_agreement: ClassVar[bool] = True

    def __call__(self, rows: Rows) -> Tensor:
        """-> (R,) from 0 to 1."""
        if rows.agreement is None:
            raise ValueError(
                "signal=teacher_agreement compares several teachers of one text and these rows have one, or count "
                "draws: set source=stores source.paths=[A,B] source.mean=true, of teachers that read the same texts"
            )
        return rows.agreement
