"""The W&B dashboard of a sweep, as code (pip install 'ekd[dashboard]'): python -m ekd.dashboard --entity ME

--group bucket_sweep    only that sweep's runs
--budget tokens         of its two budgets the other one
--view URL              put the panels into a view that was saved before, instead of a new one
--dry-run               print the view as JSON; no account, no network
--agent                 print a sweep for `wandb sweep` and `wandb agent` instead: no dashboard is built
"""

from __future__ import annotations

import json
import os
import random
import sys
from importlib.resources import files
from typing import Any, NamedTuple

from ekd.mistakes import Parser

METHOD, BUDGET = "method", "budget"  # of a run's config. The seeds of a method are one line; budgets are not mixed
SETTINGS = ("config.student.optimizer.lr", "config.trainer.max_steps", "config.seed")


class Reads(NamedTuple):
    """What the panels read of a run. tests/cli/test_wandb.py looks for each of these in a real offline run."""

    figures: tuple[str, ...]
    bucket: tuple[str, ...]  # only of a run whose selector has lower and upper
    tables: dict[str, tuple[str, ...]]  # with the columns that a panel names
    config: tuple[str, ...]


DECILES = tuple(f"choice/kl/decile{d}" for d in range(10))
OVERLAPS = tuple(f"choice/overlap/{name}" for name in ("teacher_top20", "student_top20", "random20"))
KINDS = tuple(
    f"choice/kind/chosen/{kind}" for kind in ("digits", "operators", "words", "punctuation", "other", "sentence_start")
)
COST = ("run/minutes", "run/tokens_per_second", "run/peak_memory_gb", "run/supervised_tokens")
READS = Reads(
    figures=(
        *("val/kl", "val/agreement", "train/loss", "train/selected", "trainer/global_step"),
        *("run/kl_before", "run/kl_after", "run/agreement_after", "run/accuracy", "run/selected"),
        *("choice/share", "choice/teacher_entropy/chosen", "choice/student_entropy/chosen"),
        *(*DECILES, *OVERLAPS, *KINDS, *COST),
    ),
    bucket=("bucket/centre", "bucket/width"),
    tables={"answers": (), "trace_entropy": ("nats", "tokens")},
    config=(METHOD, BUDGET, *SETTINGS),
)


def _curve(title: str, *metrics: str, **more: Any) -> Any:
    """Over the steps, a line for each method: the mean of its seeds, and from the lowest to the highest."""
    import wandb_workspaces.reports.v2 as wr

    grouped = {"groupby": wr.Config(METHOD), "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    return wr.LinePlot(
        title=title, x="trainer/global_step", y=list(metrics), title_x="step", max_runs_to_show=100, **grouped, **more
    )


def _bars(title: str, *metrics: str) -> Any:
    """The last value, a bar for each method: the mean of its seeds, and from the lowest to the highest."""
    import wandb_workspaces.reports.v2 as wr

    grouped = {"groupby": wr.Config(METHOD), "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    return wr.BarPlot(title=title, metrics=list(metrics), max_runs_to_show=100, max_bars_to_show=100, **grouped)


def _points(title: str, x: str, y: str) -> Any:
    """A point for each method, or for each run where the runs are not grouped."""
    import wandb_workspaces.reports.v2 as wr

    return wr.ScatterPlot(title=title, x=wr.SummaryMetric(x), y=wr.SummaryMetric(y))


def _settings() -> list[Any]:
    """What of the settings the outcome hangs on: over single runs, whatever the grouping."""
    import wandb_workspaces.reports.v2 as wr

    lines = [wr.Config(METHOD), *map(wr.Config, SETTINGS), *map(wr.SummaryMetric, ("run/selected", "run/kl_after"))]
    columns = [
        wr.ParallelCoordinatesPlotColumn(line, display_name=line.name.rpartition(".")[2].removeprefix("run/"))
        for line in lines
    ]
    return [
        wr.ParameterImportancePlot(with_respect_to="run/kl_after"),
        wr.ParallelCoordinatesPlot(title="Each run is a line", columns=columns),
    ]


def _sections() -> list[Any]:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    entropy = wr.CustomChart(
        query={"summaryTable": {"tableKey": "trace_entropy"}},
        chart_name="wandb/line/v0",
        chart_fields={"x": "nats", "y": "tokens"},
        chart_strings={"title": "Tokens by the teacher's entropy (nats)"},
    )
    made = {
        "Bucket curve": [
            _points("KL to the teacher after, by the band's centre", "bucket/centre", "run/kl_after"),
            _points("Accuracy, by the band's centre", "bucket/centre", "run/accuracy"),
            _points("Width of the bands", "bucket/centre", "bucket/width"),
            _bars("KL to the teacher before and after, controls too", "run/kl_before", "run/kl_after"),
        ],
        "Accuracy against selected share": [
            _points("Accuracy", "run/selected", "run/accuracy"),
            _points("KL to the teacher after", "run/selected", "run/kl_after"),
            _bars("Accuracy and agreement with the teacher", "run/accuracy", "run/agreement_after"),
        ],
        "Learning": [
            _curve("KL to the teacher, held out", "val/kl", log_y=True),
            _curve("Top-1 agreement with the teacher, held out", "val/agreement"),
            _curve("Loss on the chosen tokens (not comparable between methods)", "train/loss"),
            _curve("Share of the tokens that is chosen", "train/selected"),
        ],
        "What is chosen": [
            _bars("Of the chosen, in the top 20% by entropy", *OVERLAPS),
            _bars("Kinds of chosen tokens", *KINDS),
            _bars("KL by the teacher's entropy, decile 0 to 9", *DECILES),
            _curve("Entropy of the chosen (nats)", "choice/teacher_entropy/chosen", "choice/student_entropy/chosen"),
            _curve("Share chosen, held out", "choice/share"),
            entropy,
        ],
        "Settings": _settings(),
        "Cost": [_bars(name.removeprefix("run/").replace("_", " "), name) for name in COST],
        "Answers": [wr.WeavePanelSummaryTable(table_name="answers")],
    }
    wide, usual = ws.SectionLayoutSettings(columns=1, rows=1), ws.SectionLayoutSettings(columns=3, rows=2)
    return [
        ws.Section(name=name, panels=panels, is_open=True, layout_settings=wide if len(panels) == 1 else usual)
        for name, panels in made.items()
    ]


def _workspace(entity: str, project: str, group: str | None, budget: str) -> Any:
    import wandb_workspaces.workspaces as ws

    filters = [
        ws.Metric("JobType") == "train",
        ws.Metric("State").isin(["finished", "running"]),  # a stopped cell has a successor
        ws.Config(BUDGET) == budget,
    ]
    if group is not None:
        filters.append(ws.Metric("Group") == group)
    state = random.getstate()
    random.seed(0)  # panels are named by chance; an unchanged dashboard is to be an unchanged file
    made = ws.Workspace(
        entity=entity,
        project=project,
        name=f"ekd: {group or 'all runs'}, equal {budget}",
        sections=_sections(),
        settings=ws.WorkspaceSettings(x_axis="trainer/global_step", max_runs=100),
        runset_settings=ws.RunsetSettings(filters=filters, groupby=[ws.Config(METHOD)]),
    )
    random.setstate(state)
    return made


def _view(made: Any) -> dict[str, Any]:
    """What _save() sends."""
    return dict(made._to_model().model_dump(by_alias=True, exclude_none=True))


def _save(made: Any, url: str | None) -> str:
    """The page of the saved view."""
    import wandb_workspaces.workspaces as ws

    if url is not None:
        former = ws.Workspace.from_url(url)
        former.sections, former.settings, former.runset_settings = made.sections, made.settings, made.runset_settings
        made = former
    return str(made.save().url)


def main() -> int:
    parser = Parser(prog="python -m ekd.dashboard", description="Build the W&B dashboard of a sweep.")
    parser.add_argument("--entity", help="a user or a team")
    parser.add_argument("--project", default="ekd")
    parser.add_argument("--group", help="a sweep's name; default: all runs of the project")
    parser.add_argument("--budget", choices=["steps", "tokens"], default="steps", help="what its runs were equal in")
    parser.add_argument("--view", help="the URL of a saved view to change instead of making a new one")
    parser.add_argument("--dry-run", action="store_true", help="print the view as JSON, without account or network")
    parser.add_argument("--agent", action="store_true", help="print a sweep for `wandb sweep`, and build nothing")
    asked = parser.parse_args()
    if asked.agent:
        print(files("ekd.dashboard").joinpath("agent.yaml").read_text(), end="")
        return 0
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        import wandb_workspaces  # noqa: F401 (so that --help works without it)
    except ModuleNotFoundError:
        print("error: the dashboard needs wandb-workspaces: pip install 'ekd[dashboard]'", file=sys.stderr)
        return 2
    if asked.entity is None and not asked.dry_run:
        parser.error("give --entity (a user or a team), or --dry-run to see the view without an account")
    made = _workspace(asked.entity or "ENTITY", asked.project, asked.group, asked.budget)
    if asked.dry_run:
        print(json.dumps(_view(made), indent=1, sort_keys=True))
        return 0
    print(_save(made, asked.view))
    return 0


if __name__ == "__main__":
    sys.exit(main())
