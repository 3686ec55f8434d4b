"""``isospike eval``: a trained network on its test images."""

from pathlib import Path
from typing import Annotated, Any

import typer

from isospike.cli.console import Checkpoint, DataDir, Device, Import, Json, out, print_json
from isospike.config import with_data_dir, with_data_keys
from isospike.data import Augment, Loader, load_dataset
from isospike.errors import ConfigError
from isospike.evaluation import FastNetwork, as_results, evaluate
from isospike.own_rows import import_rows
from isospike.processes import open_world
from isospike.run_folder import RunFolder
from isospike.train.build import load_trained


def evaluate_command(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    checkpoint: Checkpoint = "last",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of data, as data.test_size=288."),
    ] = None,
    data_dir: DataDir = None,
    import_: Import = None,
    device: Device = "auto",
    fast: Annotated[bool, typer.Option("--fast", help="Test the network compiled for inference.")] = False,
    precision: Annotated[
        str, typer.Option(help="Of the compiled network: float32, or int8 for weights of 8 bits.")
    ] = "float32",
    early_exit: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Let images leave once they are decided, so that this share of training images keeps its class.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Test a run; the result also goes to analysis/test.json, where the report finds it."""
    import_rows(import_)
    if not fast and (precision != "float32" or early_exit is not None):
        raise ConfigError("--precision and --early-exit are of the compiled network: add --fast")
    folder = RunFolder(run)
    config = with_data_dir(with_data_keys(folder.read_config(), set_ or []), data_dir)
    dataset = load_dataset(config.data)
    with open_world(device) as world:
        model = load_trained(
            folder, config, num_classes=len(dataset.classes), in_channels=dataset.channels, which=checkpoint
        )
        size = config.train.test_batch_size
        loader = Loader(dataset.test, size, shuffle=False, rank=world.rank, world=world.size)
        augment = Augment(config.augment, dataset.mean, dataset.std, len(dataset.classes))
        model.to(world.device)
        net = FastNetwork(model, precision) if fast else None
        if net is not None and early_exit is not None:
            net.calibrate(early_exit, dataset, augment, batch_size=size, device=world.device)
        tested = evaluate(net or model, loader, augment, world)
        inference = None if net is None else net.facts(world)
        if tested is None or not world.is_first:
            return
    results = as_results(tested, dataset, checkpoint=checkpoint, inference=inference)
    if json:
        print_json(results["test"])
    else:
        note = f" ({dataset.note})" if dataset.note else ""
        out.print(
            f"{config.model.name} on {tested.count:,} test images of {dataset.name}{note} at {dataset.tested_at} pixels"
            f": accuracy {tested.accuracy:.2%}, loss {tested.loss:.4f}{_in_words(inference)}",
            highlight=False,
            soft_wrap=True,
        )
    folder.write_analyses(results)  # after it was said: the disk may not take it


def _in_words(inference: dict[str, Any] | None) -> str:
    """Return how a compiled network was run."""
    if inference is None:
        return ""
    words = f"; compiled, {inference['precision']}"
    early = inference.get("early_exit")
    return words + (f", {early['average_T']:.2f} of {early['T']} steps on average" if early else "")
