"""``isospike eval``: a trained network on its test images."""

from pathlib import Path
from typing import Annotated

import typer

from isospike.cli.console import Checkpoint, DataDir, Device, Json, out, print_json
from isospike.config import with_data_dir, with_data_keys
from isospike.data import Augment, Loader, load_dataset
from isospike.run_folder import RunFolder
from isospike.train import evaluate
from isospike.train.build import load_trained
from isospike.train.distributed import open_world
from isospike.train.evaluate import write_test


def evaluate_command(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    checkpoint: Checkpoint = "last",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of data, as data.test_size=288."),
    ] = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Test a run; the result also goes to analysis/test.json, where the report finds it."""
    folder = RunFolder(run)
    config = with_data_dir(with_data_keys(folder.read_config(), set_ or []), data_dir)
    dataset = load_dataset(config.data)
    with open_world(device) as world:
        model = load_trained(
            folder, config, num_classes=len(dataset.classes), in_channels=dataset.channels, which=checkpoint
        )
        shares = {"rank": world.rank, "world": world.size}
        loader = Loader(dataset.test, config.train.test_batch_size, shuffle=False, **shares)
        augment = Augment(config.augment, dataset.mean, dataset.std, len(dataset.classes))
        tested = evaluate(model.to(world.device), loader, augment, world)
        if tested is None or not world.is_first:
            return
    write_test(folder, tested, dataset, checkpoint=checkpoint)
    if json:
        print_json(folder.read_analysis("test"))
    else:
        note = f" ({dataset.note})" if dataset.note else ""
        out.print(
            f"{config.model.name} on {tested.count:,} test images of {dataset.name}{note} at {dataset.tested_at} pixels"
            f": accuracy {tested.accuracy:.2%}, loss {tested.loss:.4f}",
            highlight=False,
            soft_wrap=True,
        )
