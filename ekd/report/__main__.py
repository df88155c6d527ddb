"""python -m ekd.report sweep=PATH | run=RUN | traces=PATH: what was found, as one page for a browser."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from ekd.door import door


def main(config: DictConfig) -> int:
    given = [name for name in ("sweep", "traces") if config[name] is not None]
    if len(given) == 2:
        raise ValueError(f"sweep={config.sweep} and traces={config.traces} are two pages: give one of them at a time")
    if config.traces is not None:
        return view(config)
    if config.sweep is not None and config.run is not None:
        raise ValueError(f"sweep={config.sweep} and run={config.run} are two pages: give one of them at a time")
    if config.sweep is None and config.run is None:
        raise ValueError("nothing to report on: give sweep=PATH, run=RUN or traces=PATH")
    return report(config)


def report(config: DictConfig) -> int:
    raise ValueError("the report page is being built")


def view(config: DictConfig) -> int:
    raise ValueError(f"traces={Path(config.traces)}: the token viewer is being built")


if __name__ == "__main__":
    door("report", main)
