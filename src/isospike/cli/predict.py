"""``isospike predict``: images in, classes out."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from isospike.cli.console import Checkpoint, Device, Import, Json, out, print_json
from isospike.own_rows import import_rows
from isospike.predictor import load_run
from isospike.processes import open_world


def predict_command(
    run: Annotated[Path, typer.Argument(help="Run folder, or weights that come with the package.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    checkpoint: Checkpoint = "last",
    import_: Import = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """The five likeliest classes of every image, scaled and cut as the test images of the run are."""
    import_rows(import_)
    with open_world(device) as world:
        prediction = load_run(run, checkpoint=checkpoint, device=world.device)(images)
    results = list(zip(map(str, images), prediction.top(5), strict=True))
    if json:
        print_json(
            [
                {"image": image, "predictions": [{"class": label, "probability": share} for label, share in top]}
                for image, top in results
            ]
        )
        return
    for image, top in results:
        out.print(image, markup=False, highlight=False, soft_wrap=True)
        out.print(_table(top))


def _table(top: list[tuple[str, float]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    table.add_column("probability", justify="right")
    for label, share in top:
        table.add_row(label, f"{share:.1%}")
    return table
