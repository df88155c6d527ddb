"""python -m ekd.report sweep=PATH | run=RUN | traces=PATH: what was found, as one page for a browser."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ekd.cli.door import build, door

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
            print(f"{datetime.now():%H:%M:%S}    {page.resolve().as_uri()}", flush=True)
        return 0
    page = run_page(Path(config.run), out) if config.sweep is None else sweep_page(Path(config.sweep), out)
    print(f"page        {page}")
    return 0


def view(config: DictConfig) -> int:
    """The token viewer."""
    from transformers import PreTrainedTokenizerFast

    from ekd.models.load import load_tokenizer
    from ekd.report.viewer.reading import dataset_of, make, speaker
    from ekd.report.viewer.spelling import ViewerSpelling
    from ekd.store.store import Store
    from ekd.store.tokenizer import check_tokenizer
    from ekd.teacher.wire.vocabulary import Vocabulary

    store = Store(config.traces)
    name = speaker(store, config.run, config.tokenizer)
    tokenizer = load_tokenizer(name, trust_remote_code=config.trust_remote_code)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(f"the tokenizer of {name!r} is not of the fast kind, which alone says what its ids spell")
    check_tokenizer(store.origin, tokenizer)
    asked = config.dataset
    if asked is None and config.run is not None:
        asked = dataset_of(config.run, str(store.origin.get("dataset")))
    special = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    page = make(
        store,
        ViewerSpelling(Vocabulary(tokenizer).bytes_of, special),
        run=config.run,
        dataset=None if asked is None else build(asked),
        limit=config.limit,
        top=config.top,
        out=config.out,
    )
    print(f"page        {page}")
    return 0


if __name__ == "__main__":
    door("report", main)
