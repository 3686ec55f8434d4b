"""``isospike predict``: images or events in, classes out."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from isospike.cli.console import Checkpoint, Device, Import, Json, out, print_json
from isospike.cli.stream import StreamOptions, data_of_recordings, predict_recordings, predict_stream
from isospike.errors import ConfigError
from isospike.own_rows import import_rows
from isospike.predictor import load_run
from isospike.processes import open_world

_events = partial(typer.Option, rich_help_panel="Events")


def predict_command(
    run: Annotated[Path, typer.Argument(help="Run folder, or weights that come with the package.")],
    files: Annotated[
        list[Path] | None, typer.Argument(help="Images, or recordings of events: as the run has read.")
    ] = None,
    checkpoint: Checkpoint = "last",
    import_: Import = None,
    device: Device = "auto",
    json: Json = False,
    stream: Annotated[
        str | None, _events("--stream", metavar="FILE", help="A recording, decided about as it arrives; - for a pipe.")
    ] = None,
    window: Annotated[int | None, _events(metavar="MICROSECONDS", help="A decision after each so long window.")] = None,
    count: Annotated[int | None, _events(metavar="EVENTS", help="A decision after each so many events.")] = None,
    restart: Annotated[int | None, _events(metavar="WINDOWS", help="Begin anew, from rest, after so many.")] = None,
    late: Annotated[int, _events(metavar="MICROSECONDS", help="Wait so long for events that are out of order.")] = 0,
    sensor: Annotated[
        str | None, _events(metavar="WIDTHxHEIGHT", help="Pixels of the sensor, where the file does not say.")
    ] = None,
    format: Annotated[str | None, _events(help="Of the recording; by default found from its content.")] = None,
) -> None:
    """Tell the five likeliest classes of every file, scaled and cut as the test images or recordings of the run are.

    With --stream, what the network says of events as they arrive: one line after every window.
    """
    import_rows(import_)
    options = StreamOptions(window, count, restart, late, sensor, format)
    files = files or []
    if bool(files) == (stream is not None):
        raise ConfigError("give files of images or recordings, or one recording with --stream FILE")
    if stream is not None:
        predict_stream(run, stream, options, checkpoint=checkpoint, device=device, as_json=json)
        return
    data = data_of_recordings(run)
    if data is not None:
        prediction = predict_recordings(run, data, files, options, checkpoint=checkpoint, device=device)
    else:
        options.refuse()
        with open_world(device) as world:
            prediction = load_run(run, checkpoint=checkpoint, device=world.device)(files)
    what = "image" if data is None else "recording"
    results = list(zip(map(str, files), prediction.top(5), strict=True))
    if json:
        print_json(
            [
                {what: file, "predictions": [{"class": label, "probability": share} for label, share in top]}
                for file, top in results
            ]
        )
        return
    for file, top in results:
        out.print(file, markup=False, highlight=False, soft_wrap=True)
        out.print(_table(top))


def _table(top: list[tuple[str, float]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    table.add_column("probability", justify="right")
    for label, share in top:
        table.add_row(label, f"{share:.1%}")
    return table
