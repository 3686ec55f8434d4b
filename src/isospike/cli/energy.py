"""``isospike energy``: the operations of a trained network on its test images, and what they cost."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import torch
import typer
from rich.table import Table
from torch import Tensor

from isospike.analysis import (
    ENERGY_TABLES,
    Energy,
    Flow,
    OperationCounter,
    nominal_counts,
    picture_recording,
    record_raster,
    watch,
)
from isospike.analysis.energy import WAYS
from isospike.cli.console import Checkpoint, DataDir, Device, Import, Json, out, print_json
from isospike.config import RunConfig, with_data_dir
from isospike.data import Augment, Dataset, load_dataset
from isospike.graph import promised_domains
from isospike.models import SpikingNetwork, create_model, model_card
from isospike.own_rows import import_rows
from isospike.processes import open_world
from isospike.run_folder import RunFolder
from isospike.train.build import load_trained

FLOW_IMAGES = 100  # watching the potentials takes longer than counting operations, and needs fewer images
COLUMNS = {"dense": "dense M", "macs": "MAC M", "acs": "AC M", "graded_acs": "graded M", "mj": "uJ", "ann_mj": "ANN uJ"}


def energy_command(
    target: Annotated[str, typer.Argument(metavar="RUN_OR_MODEL", help="Run folder, or the name of a model.")],
    checkpoint: Checkpoint = "last",
    data_dir: DataDir = None,
    images: Annotated[
        int, typer.Option(min=1, help="Test images to count on, drawn at random but always alike.")
    ] = 1000,
    table: Annotated[str, typer.Option(help="What an operation costs, as 45nm_float32.")] = "45nm_float32",
    layers: Annotated[bool, typer.Option("--layers", help="Print every layer.")] = False,
    import_: Import = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Count the operations of a run on its test images; of a model's name, what papers assume: one spike per neuron."""
    import_rows(import_)
    ENERGY_TABLES[table]
    folder = RunFolder(target)
    if not folder.path.exists() and len(folder.path.parts) == 1:
        _nominal(target, table, json)
        return
    config = with_data_dir(folder.read_config(), data_dir)
    results = _measure(folder, config, checkpoint, images, table, device)
    if json:
        print_json(results["energy"])
    else:
        _print(config, results["energy"], layers)
    folder.write_analyses(results)  # after it was said: the disk may not take it


def _measure(
    folder: RunFolder, config: RunConfig, checkpoint: str, images: int, table: str, device: str
) -> dict[str, dict[str, Any]]:
    """Measure what goes to ``analysis/``: energy, flow and raster."""
    dataset = load_dataset(config.data)
    with open_world(device) as world:
        model = load_trained(
            folder, config, num_classes=len(dataset.classes), in_channels=dataset.channels, which=checkpoint
        ).to(world.device)
        augment = Augment(config.augment, dataset.mean, dataset.std, len(dataset.classes))
        order = torch.randperm(len(dataset.test), generator=torch.Generator().manual_seed(0))[:images]
        batches = (
            augment.test(batch.to(world.device)) for batch in _draw(dataset, order, config.train.test_batch_size)
        )
        energy, flow = _run(model, batches, table)
        counts = next(dataset.test.batches([order[:1]], 0)).to(world.device)
        image = augment.test(counts)
        raster = record_raster(model, image)
        recording = None if dataset.T is None else picture_recording(model, counts, image)
        guess = _best(model, image)
    facts = {"model": config.model.name, "data": dataset.name, "note": dataset.note, "checkpoint": checkpoint}
    classes, first = dataset.classes, int(order[0])
    shown = {"image": first, "true": classes[int(dataset.test.labels[first])], "guess": classes[guess]}
    results = {
        "energy": {**facts, **energy.as_dict()},
        "flow": {**facts, **flow.as_dict()},
        "raster": {**facts, **shown, **raster.as_dict()},
    }
    return results if recording is None else {**results, "recording": {**facts, **shown, **recording}}


@torch.no_grad()
def _best(model: SpikingNetwork, image: Tensor) -> int:
    return int(model(image).argmax())


def _draw(dataset: Dataset, order: Tensor, batch_size: int) -> Iterator[Tensor]:
    first, rest = order[:FLOW_IMAGES], order[FLOW_IMAGES:]
    return dataset.test.batches([first, *(rest.split(batch_size) if len(rest) else [])], 0)


@torch.no_grad()
def _run(model: SpikingNetwork, batches: Iterator[Tensor], table: str) -> tuple[Energy, Flow]:
    """Count the operations on all batches, and the flow on the first."""
    with OperationCounter(model) as counter:
        with watch(model) as seen:
            model(next(batches))
        for batch in batches:
            model(batch)
    return Energy(counter.work(), table), seen.flow()


def _print(config: RunConfig, result: Mapping[str, Any], layers: bool) -> None:
    note = f" ({result['note']})" if result["note"] else ""
    table = result["table"]
    _say(
        f"{config.model.name}, T={result['T']}, {result['checkpoint']} checkpoint, per image of {result['samples']:,} "
        f"test images of {result['data']}{note}; operations in millions (M), energies in microjoules (uJ)"
    )
    _say(f"{table['name']}: MAC {table['mac_pj']:g} pJ, AC {table['ac_pj']:g} pJ ({table['source']})")
    out.print(_table(result["groups"], "part"))
    if layers:
        out.print(_table({layer["layer"]: layer for layer in result["layers"]}, "layer"))
    _print_ways(result["mj"])
    _say(f"ANN without the zeros of the padding: {result['ann_inside_mj']:.4g} mJ")
    membrane, memory = result["estimates"]["membrane"], result["estimates"]["memory"]
    ann = memory["ann"]
    _say(f"spikes per neuron and image: {result['spikes_per_neuron']:.3f} ({result['neurons']:,} neurons)")
    _say(
        f"estimates, in no total: potentials updated {membrane:.4g} mJ; memory, each number moved as seldom as can be, "
        f"{sum(memory.values()) - ann:.4g} mJ (ANN {ann:.4g} mJ)"
    )


def _print_ways(mj: Mapping[str, float]) -> None:
    _say(f"ANN of the same layers, dense: {mj['ann']:.4g} mJ")
    for way, words in WAYS.items():
        _say(f"{words}: {mj[way]:.4g} mJ, the ANN takes {mj['ann'] / mj[way]:.2f} times as much")


def _table(rows: Mapping[str, Mapping[str, Any]], first: str) -> Table:
    table = Table(box=None, pad_edge=False)
    reads = any("reads" in row for row in rows.values())
    table.add_column(first, overflow="fold", min_width=max(map(len, rows)))
    if reads:
        table.add_column("reads")
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in rows.items():
        counts = [f"{row[column] * 1e3:,.3f}" if "mj" in column else f"{row[column] / 1e6:,.2f}" for column in COLUMNS]
        table.add_row(name, *([row["reads"]] if reads else []), *counts)
    return table


def _nominal(name: str, table: str, json: bool) -> None:
    """Print what papers count, from the model's card alone."""
    card = model_card(name)
    with torch.device("meta"):
        model = create_model(name)
    domains = promised_domains(model)
    skips = [d for n, m in model.named_modules() if ".skip." in n and (d := domains.get(m)) is not None]
    counts = nominal_counts(card, real_projections=any(d.largest is None for d in skips))
    mj = counts.mj(ENERGY_TABLES[table])
    if json:
        print_json({"measured": False, "model": name, "T": card.T, "spikes_per_neuron": 1.0, "table": table, "mj": mj})
        return
    _say(
        f"{name}, T={card.T}, {card.input_size}x{card.input_size}: one spike per neuron and image, as papers assume; "
        "nothing was measured, name a run folder for that"
    )
    _print_ways(mj)


def _say(text: str) -> None:
    out.print(text, highlight=False, markup=False, soft_wrap=True)
