"""``isospike show``: a recording of events to look at."""

from pathlib import Path
from typing import Annotated

import typer

from isospike.cli.console import Json, out, print_json
from isospike.errors import DataError
from isospike.events import read
from isospike.events.recording import read_sensor
from isospike.events.summary import summarise
from isospike.report import write_recording
from isospike.report.recording import in_words


def show_command(
    file: Annotated[Path, typer.Argument(help="A recording of an event camera, in any format.")],
    page: Annotated[
        Path | None, typer.Option("--out", help="The page; by default the name of the file with .html, here.")
    ] = None,
    sensor: Annotated[
        str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Pixels of the sensor, where the file does not say.")
    ] = None,
    format: Annotated[str | None, typer.Option(help="Of the recording; by default found from its content.")] = None,
    sort: Annotated[bool, typer.Option("--sort", help="Bring events into the order of their time.")] = False,
    json: Json = False,
) -> None:
    """Show a recording in numbers, and as a page: frames that move, a cloud of events over time, rates."""
    size = None if sensor is None else read_sensor(sensor, "--sensor")
    events = read(file, format=format, sensor=size, sort=sort)
    if not len(events):
        raise DataError(f"{file} holds no events, so there is nothing to look at")
    summary = summarise(events)
    if json:
        print_json({"file": str(file), **summary.as_dict()})
    else:
        for sentence in in_words(summary):
            out.print(sentence, markup=False, highlight=False, soft_wrap=True)
    path = page or Path(f"{file.name}.html")
    write_recording(events, file.name, path)
    if not json:
        out.print(f"page: {path}", markup=False, highlight=False, soft_wrap=True)
