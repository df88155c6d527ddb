"""Whether teacher and student speak the same ids; where they do not, the bridge between them. Found out once."""

from __future__ import annotations

import hashlib
import logging
from functools import lru_cache
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from ekd.models.load import load_tokenizer
from ekd.store.tokenizer import check_tokenizer, tokenizer_fingerprint
from ekd.translate.bridge import Bridge, Translates
from ekd.translate.spelling import spelling_of
from ekd.types import Teacher

log = logging.getLogger(__name__)


class Family(NamedTuple):
    """tokenizer: the teacher's own, where its ids are others and known here. bridge: None where ids are the same."""

    teacher: Teacher  # as it is asked
    tokenizer: PreTrainedTokenizerBase | None = None
    bridge: Bridge | None = None
    name: str = ""  # of the teacher's tokenizer, as it was given

    def origin(self) -> dict[str, Any]:
        """What is said of translated rows; nothing of others, so that their stores are those of any other run."""
        if self.bridge is None:
            return {}
        if self.tokenizer is None:
            return {"align": {"by": "bytes", "tokenizer": "the server's own"}}
        said = tokenizer_fingerprint(self.tokenizer)
        template = hashlib.sha256(str(self.tokenizer.chat_template).encode()).hexdigest()
        own = {"tokenizer": self.name, "size": said["size"], "sha256": said["sha256"]}
        return {"align": {"by": "bytes", **own, "template": template}}

    @property
    def speaks_text(self) -> bool:
        """Whether the teacher is asked in messages, which it renders itself."""
        return self.bridge is not None and self.tokenizer is None

    @property
    def same_end(self) -> bool:
        """Whether to both a text ends as an answer does, so that one's end can be the other's."""
        if self.bridge is None:
            return True
        if self.tokenizer is None or self.bridge.teacher is None:
            return False
        return self.bridge.ends == {self.bridge.student.end} and self.tokenizer.eos_token_id == self.bridge.teacher.end


def family_of(teacher: Teacher, student: str, tokenizer: PreTrainedTokenizerBase, trust_remote_code: bool) -> Family:
    """student, tokenizer: by name, and loaded. Raises ValueError, one sentence, where no row could be translated."""
    if not isinstance(teacher, Translates) or teacher.align == "same" or teacher.own_tokenizer == student:
        return Family(teacher)
    if teacher.own_tokenizer is None:
        return _unknown(teacher, tokenizer)
    own = load_tokenizer(teacher.own_tokenizer, trust_remote_code=trust_remote_code)
    if teacher.align == "auto" and not _differ(own, tokenizer):
        return Family(teacher)
    bridge = _kept(teacher.own_tokenizer, student, trust_remote_code)
    if bridge.teacher is not None and bridge.teacher.same(bridge.student):
        return Family(teacher)
    _say_once(
        f"teacher.align={teacher.align}: {teacher.own_tokenizer} has another tokenizer ({len(own):,} tokens) than "
        f"{student} ({len(tokenizer):,}), so its rows are translated by bytes"
    )
    return Family(teacher.bridged(bridge), own, bridge, teacher.own_tokenizer)


def bridge_of(own: PreTrainedTokenizerBase | None, student: PreTrainedTokenizerBase) -> Bridge:
    """own: the teacher's; None: a server's that speaks text."""
    spelling = spelling_of(student)
    ends = {spelling.end, student.eos_token_id} - {None}
    return Bridge(None if own is None else spelling_of(own), spelling, frozenset(ends))


@lru_cache(maxsize=4)
def _kept(own: str, student: str, trust_remote_code: bool) -> Bridge:
    """By name, because its tables take seconds."""
    return bridge_of(*(load_tokenizer(name, trust_remote_code=trust_remote_code) for name in (own, student)))


def _unknown(teacher: Translates, tokenizer: PreTrainedTokenizerBase) -> Family:
    if teacher.align == "auto" and not teacher.foreign():
        return Family(teacher)
    bridge = bridge_of(None, tokenizer)
    bridged = teacher.bridged(bridge)
    _say_once(f"teacher.align={teacher.align}: the teacher's texts are translated for the student's tokenizer by bytes")
    return Family(bridged, None, bridge)


def _differ(own: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> bool:
    try:
        check_tokenizer({"tokenizer": tokenizer_fingerprint(own)}, student)
    except ValueError:
        return True
    return False


@lru_cache
def _say_once(line: str) -> None:
    log.info(line)
