"""What W&B sends to whoever asked it for alerts: that a run failed, and whether its numbers did."""

from __future__ import annotations

import sys

from ekd.mistakes import Diverged

LONGEST = 1000  # characters of the text


def alert(error: Exception, told: str) -> None:
    """Of the W&B run that is open, if there is one: a run that was refused before it began has none there.

    told: the sentence, or the traceback of a defect, whose end says most.
    """
    run = sys.modules["wandb"].run if "wandb" in sys.modules else None
    if run is not None:
        title = "the numbers are none any more" if isinstance(error, Diverged) else "a run failed"
        run.alert(title, told[-LONGEST:], level="ERROR")
