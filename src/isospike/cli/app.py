"""The command ``isospike``: its parts, and the way from an error to an exit code.

Exit codes: 0 done; 1 a run that failed or was stopped; 2 bad usage or unusable input.
"""

import sys
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import Any

import typer

from isospike.cli.analyze import analyze_command
from isospike.cli.bench import bench_command
from isospike.cli.console import err
from isospike.cli.convert import convert_command
from isospike.cli.energy import energy_command
from isospike.cli.evaluate import evaluate_command
from isospike.cli.export import export_command
from isospike.cli.habits import TrainCommand
from isospike.cli.models import models_command
from isospike.cli.predict import predict_command
from isospike.cli.recipes import recipes_command
from isospike.cli.report import report_command
from isospike.cli.serve import serve_command
from isospike.cli.show import show_command
from isospike.cli.sweep import sweep_command
from isospike.cli.train import train_command
from isospike.errors import IsospikeError, IsospikeWarning, RunFailed
from isospike.own_rows import import_installed

app = typer.Typer(
    name="isospike",
    help="Deep residual spiking neural networks, each true to its source.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("models")(models_command)
app.command("recipes")(recipes_command)
app.command("train", cls=TrainCommand)(train_command)
app.command("eval")(evaluate_command)
app.command("energy")(energy_command)
app.command("predict")(predict_command)
app.command("export")(export_command)
app.command("show")(show_command)
app.command("convert")(convert_command)
app.command("sweep")(sweep_command)
app.command("analyze")(analyze_command)
app.command("bench")(bench_command)
app.command("report")(report_command)
app.command("serve")(serve_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(metadata.version("isospike"))
        raise typer.Exit


@app.callback()
def _root(version: bool = typer.Option(False, "--version", callback=_print_version, help="Print the version.")) -> None:
    import_installed()


def _note_ours(others: Callable[..., None]) -> Callable[..., None]:
    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, IsospikeWarning):
            err.print(f"note: {message}", highlight=False, markup=False, soft_wrap=True)
        else:
            others(message, category, *where, **more)

    return show


def main() -> None:
    """Run the command line; an error of ours is one sentence, not a stack trace, and a warning of ours is a note."""
    warnings.showwarning = _note_ours(warnings.showwarning)
    try:
        app()
    except IsospikeError as error:
        for note in getattr(error, "__notes__", ()):  # the traceback of code that is not ours
            err.print(note, style="dim", highlight=False, markup=False, soft_wrap=True)
        err.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(1 if isinstance(error, RunFailed) else 2)
