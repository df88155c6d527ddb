"""The two pages, of a sweep and of one run: from a folder to a file for a browser."""

from __future__ import annotations

from pathlib import Path

from ekd.distill.fence import check_run
from ekd.outside import check_tree
from ekd.report.page import folder
from ekd.report.run_view import finished_cell, run_view
from ekd.report.sweep import read_sweep
from ekd.report.sweep_view import sweep_view


def sweep_page(path: Path, out: Path | None = None) -> Path:
    """-> the page, PATH/report/index.html unless `out` names another folder. Raises ValueError as `sweep.read` does."""
    sweep = read_sweep(path)
    check_tree(path, ["report"])
    where = folder(out or path / "report", png=True)
    return where.render("sweep.html", **sweep_view(sweep, where))


def run_page(run: Path, out: Path | None = None) -> Path:
    """-> the page of one finished run, RUN/report/index.html unless `out` names another folder."""
    check_run(run)
    cell = finished_cell(run)
    where = folder(out or run / "report", png=False)
    return where.render("run.html", **run_view(cell, where))
