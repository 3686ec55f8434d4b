"""``isospike predict``: images in, classes out."""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table
from torch import Tensor

from isospike.cli.console import Checkpoint, Device, Json, out, print_json
from isospike.config import AugmentSpec
from isospike.data import Augment
from isospike.data.decode import CentreCrop
from isospike.data.images import read_image, to_tensor
from isospike.errors import ConfigError
from isospike.run_folder import RunFolder
from isospike.train.build import load_trained
from isospike.train.distributed import open_world


def predict_command(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    checkpoint: Checkpoint = "last",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """The five likeliest classes of every image, scaled and cut as the test images of the run are."""
    folder = RunFolder(run)
    config = folder.read_config()
    data = folder.read_analysis("data")
    if data is None:
        raise ConfigError(
            f"{run} holds no analysis/data.json, which names the classes: was it trained by isospike train?"
        )
    inputs = _read(images, data)
    with open_world(device) as world:
        model = load_trained(
            folder, config, num_classes=len(data["classes"]), in_channels=data["channels"], which=checkpoint
        ).to(world.device)
        net = model.compile_for_inference()
        shares = net(inputs.to(world.device)).softmax(-1).cpu()
    results = [
        {"image": str(path), "predictions": _top(share, data["classes"])}
        for path, share in zip(images, shares, strict=True)
    ]
    if json:
        print_json(results)
    else:
        for result in results:
            out.print(result["image"], markup=False, highlight=False, soft_wrap=True)
            out.print(_table(result))


def _read(images: list[Path], data: dict[str, Any]) -> Tensor:
    """Normalised images ``[B, C, H, W]``."""
    size = data.get("test_size") or data["size"]
    crop = CentreCrop(size, data.get("test_resize") or size)
    pixels = torch.stack([to_tensor(crop(read_image(path, str(path), data["channels"]))) for path in images])
    return Augment(AugmentSpec(), data["mean"], data["std"], len(data["classes"])).test(pixels)


def _top(shares: Tensor, classes: list[str]) -> list[dict[str, Any]]:
    best = shares.topk(min(5, len(classes)))
    return [
        {"class": classes[label], "probability": share}
        for share, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def _table(result: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    table.add_column("probability", justify="right")
    for guess in result["predictions"]:
        table.add_row(guess["class"], f"{guess['probability']:.1%}")
    return table
