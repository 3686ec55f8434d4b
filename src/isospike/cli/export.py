"""``isospike export``: a trained network as a file that other programs run."""

from pathlib import Path
from typing import Annotated

import typer

from isospike.cli.console import Checkpoint, Import, err, out
from isospike.export import FORMATS, export
from isospike.own_rows import import_rows
from isospike.predictor import trained_network


def export_command(
    run: Annotated[Path, typer.Argument(help="Run folder, or weights that come with the package.")],
    format: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")],
    file: Annotated[Path, typer.Option("--out", metavar="FILE", help="The file to write.")],
    form: Annotated[
        str | None,
        typer.Option(help="static: an image, all steps; clip: an input for every step; step: one step of a stream."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32; int8, of ONNX: 8-bit weights, exact integer sums.")
    ] = None,
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Where the format cannot say what the network does, say what is nearest.")
    ] = False,
    operators: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Of ONNX and NIR: those that the device has; others are refused."),
    ] = None,
    checkpoint: Checkpoint = "last",
    import_: Import = None,
) -> None:
    """Write the network of a run for programs that have no isospike."""
    import_rows(import_)
    FORMATS[format]
    model = trained_network(run, checkpoint)
    known = None if operators is None else [name.strip() for name in operators.split(",")]
    form, losses = export(model, file, format, form=form, precision=precision, lossy=lossy, operators=known)
    for loss in losses:
        err.print(f"note: {loss}", highlight=False, markup=False, soft_wrap=True)
    kind = ", ".join(filter(None, (format, form, precision)))
    assert model.inputs is not None, "a run that says nothing of its images is refused"
    size = model.inputs.size
    out.print(
        f"{file}: {kind}, T={model.T}, {size}x{size} pixels, {file.stat().st_size:,} bytes",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
