"""``isospike report``: the page of a run."""

from pathlib import Path
from typing import Annotated

import typer

from isospike.cli.console import out
from isospike.cli.sweep import show_sweep
from isospike.errors import MissingExtra
from isospike.report import write_report
from isospike.run_folder import RunFolder
from isospike.sweep import PLAN, open_sweep


def report_command(run: Annotated[Path, typer.Argument(help="Run folder, or sweep folder.")]) -> None:
    """Write report.html from what the run folder holds: one file that needs no network; of a sweep sweep.html."""
    if (run / PLAN).is_file():
        show_sweep(open_sweep(run))
        return
    folder = RunFolder(run)
    write_report(folder)
    out.print(f"report: {folder.report}", highlight=False, soft_wrap=True)


def try_report(folder: RunFolder) -> None:
    """The same after training, where the plotting library may be missing: the run is none the worse for it."""
    try:
        write_report(folder)
    except MissingExtra as missing:
        out.print(f"no report: {missing}", highlight=False, soft_wrap=True)
    else:
        out.print(f"report: {folder.report}", highlight=False, soft_wrap=True)
