"""A callback that makes a step slow enough to be killed in."""

from __future__ import annotations

import time

import lightning as L


class Slow(L.Callback):
    def on_train_batch_start(self, *_: object) -> None:
        time.sleep(0.15)
