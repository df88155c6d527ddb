"""python -m ekd.report sweep=PATH | run=RUN | traces=PATH: what was found, as one page for a browser."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ekd.cli.door import build, door
from ekd.method import CONF
from ekd.report.page import open_line

if TYPE_CHECKING:
    from ekd.types import Dataset

OF_TRACES = ("limit", "top", "dataset", "tokenizer", "trust_remote_code")


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
    words = HydraConfig.get().overrides.task
    if idle := [word for word in words if word.split("=")[0].lstrip("+").split(".")[0] in OF_TRACES]:
        raise ValueError(f"{' '.join(idle)} goes with traces=PATH only: leave it out")
    return report(config)


def report(config: DictConfig) -> int:
    """The page of a sweep or of one run."""
    from ekd.report.pages import run_page, sweep_page, watch_sweep

    out = None if config.out is None else Path(config.out).expanduser()
    if config.watch:
        if config.sweep is None:
            raise ValueError("watch=true goes with sweep=PATH: one run's page is made when it has finished")
        for page in watch_sweep(Path(config.sweep), out):
            print(f"{datetime.now():%H:%M:%S}    {open_line(page)}", flush=True)
        return 0
    page = run_page(Path(config.run), out) if config.sweep is None else sweep_page(Path(config.sweep), out)
    print(f"page        {open_line(page)}")
    return 0


def view(config: DictConfig) -> int:
    """The token viewer."""
    from ekd.models.load import load_tokenizer
    from ekd.report.viewer.page import chosen_keys
    from ekd.report.viewer.reading import dataset_of, make, speaker, student_from
    from ekd.report.viewer.spelling import viewer_spelling
    from ekd.store.store import Store
    from ekd.store.tokenizer import check_tokenizer

    store = Store(config.traces)
    name = speaker(store, config.run, config.tokenizer)
    tokenizer = load_tokenizer(name, trust_remote_code=config.trust_remote_code)
    spelling = viewer_spelling(tokenizer, name)
    check_tokenizer(store.origin, tokenizer)
    asked, posed = config.dataset, str(store.origin.get("dataset"))
    if asked is None and config.run is not None:
        asked = dataset_of(config.run, posed)
    guess = guessed_dataset(posed) if asked is None else None
    page = make(
        store,
        spelling,
        chosen_keys(store, config.limit),
        run=config.run,
        model=None if config.run is None else student_from(config.run),
        dataset=guess if asked is None else build(asked),
        guessed=asked is None,
        top=config.top,
        out=viewer_folder(config),
    )
    print(f"viewer      {open_line(page)}")
    return 0


def viewer_folder(config: DictConfig) -> Path:
    """Raises ValueError where it would be written through a link."""
    from ekd.outside import check_tree
    from ekd.store.location import local_folder, location

    folder = local_folder(location(config.traces))
    check_tree(folder, ["report"])
    return folder / "report" if config.out is None else Path(config.out).expanduser()


def guessed_dataset(posed: str) -> Dataset | None:
    """The group that a store's class of dataset is of, as it stands, where that needs no file and no hub.

    Whether it posed the store's problems is for their questions to say.
    """
    for file in sorted(CONF.glob("dataset/*.yaml")):
        config: Any = OmegaConf.load(file)
        fetched = any(config.get(name, "") is None for name in ("path", "train", "hub"))
        if str(config.get("_target_")).rpartition(".")[2] == posed and not fetched:
            made: Dataset = build(config)
            return made
    return None


if __name__ == "__main__":
    door("report", main)
