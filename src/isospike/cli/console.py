"""Where the command line writes: results to standard output, errors to standard error."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console

out = Console()
err = Console(stderr=True)

# The options that several commands share, so that they read the same everywhere.
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for a program to read.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
DataDir = Annotated[str | None, typer.Option(help="Folder of the images; overrides the run's own.")]
Import = Annotated[
    list[str] | None,
    typer.Option(
        "--import", metavar="FILE", help="Import rows of your own, from my_rows.py or a module; may be given again."
    ),
]
Checkpoint = Annotated[str, typer.Option(help="Which weights: last or best.")]


def print_json(value: Any) -> None:
    """Print plain JSON, whatever the terminal."""
    typer.echo(json.dumps(value, indent=1))
