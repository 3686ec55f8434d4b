"""``isospike report``: the page of a run, or of several."""

from pathlib import Path
from typing import Annotated

import typer

from isospike.cli.console import Import, err, out
from isospike.cli.sweep import show_sweep
from isospike.errors import ConfigError, IsospikeError
from isospike.own_rows import import_rows
from isospike.report import comparison_sections, run_sections, write_comparison, write_figures, write_report
from isospike.run_folder import RunFolder
from isospike.sweep import PLAN, open_sweep


def report_command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folder, of which several are compared; or sweep folder.")
    ],
    page: Annotated[
        Path | None,
        typer.Option("--out", help="The page; by default report.html in the run folder, or comparison.html here."),
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for every figure as SVG and PNG.")] = None,
    import_: Import = None,
) -> None:
    """Write what the run folders hold as one page that needs no network; of a sweep its own page."""
    import_rows(import_)
    if len(runs) == 1 and (runs[0] / PLAN).is_file():
        if page is not None:
            raise ConfigError("the page of a sweep is sweep.html in its folder: leave --out away")
        show_sweep(open_sweep(runs[0]), figures=figures)
        return
    folders = [RunFolder(run) for run in runs]
    if len(folders) == 1:
        path = page or folders[0].report
        problems = write_report(folders[0], path)
    else:
        path = page or Path("comparison.html")
        problems = write_comparison(folders, path)
    for problem in problems:
        err.print(f"note: {problem}", highlight=False, markup=False, soft_wrap=True)
    out.print(f"report: {path}", highlight=False, markup=False, soft_wrap=True)
    if figures is not None:
        sections, _ = run_sections(folders[0]) if len(folders) == 1 else comparison_sections(folders)
        written = write_figures(sections, figures)
        out.print(f"figures: {len(written)} in {figures}", highlight=False, markup=False, soft_wrap=True)


def try_report(folder: RunFolder) -> None:
    """Write the report after training, or say why not.

    The plotting library may be missing, or the disk full by now: the run is none the worse for it.
    """
    out.print("writing the report ...", highlight=False)
    try:
        write_report(folder)
    except IsospikeError as error:
        out.print(f"no report: {error}", highlight=False, markup=False, soft_wrap=True)
    else:
        out.print(f"report: {folder.report}", highlight=False, markup=False, soft_wrap=True)
