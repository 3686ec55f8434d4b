"""``isospike analyze``: how a network passes gradients on."""

from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.table import Table
from torch import Tensor

from isospike.analysis import (
    GradientNorms,
    UnitIsometry,
    Verdict,
    gradient_norms,
    judge,
    log10_product,
    measure_isometry,
)
from isospike.cli.console import Checkpoint, DataDir, Device, Import, Json, out, print_json
from isospike.cli.convert import show_conversion
from isospike.cli.converted import FEW, compare_again
from isospike.config import with_data_dir
from isospike.data import Augment, AugmentSpec, load_dataset
from isospike.errors import ConfigError, UnknownName
from isospike.models import SpikingNetwork, create_model
from isospike.own_rows import import_rows
from isospike.processes import open_world
from isospike.run_folder import RunFolder
from isospike.seeding import derive_seed
from isospike.train.build import load_trained


class Subject(NamedTuple):
    """A network, images for it, and what both are called."""

    model: SpikingNetwork
    images: Tensor
    labels: Tensor
    facts: dict[str, Any]


def analyze_command(
    target: Annotated[str, typer.Argument(metavar="RUN_OR_MODEL", help="Run folder, or the name of a model.")],
    checkpoint: Checkpoint = "last",
    probes: Annotated[
        int | None, typer.Option(help="Random probes per unit, by default 4; from 2 on with intervals.")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Images; by default 8, of a converted network 128.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the probes, and of a new model; by default 0.")] = None,
    data_dir: DataDir = None,
    import_: Import = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Measure block dynamical isometry of every unit and gradient norms along depth, with a verdict.

    Of a run its trained weights on test images, and the result goes to analysis/isometry.json, where the report finds
    it; of a model by its name untrained weights on random images. A converted network is compared with its ANN once
    more, to analysis/conversion.json.
    """
    import_rows(import_)
    if batch is not None and batch < 1:
        raise ConfigError(f"--batch is a number of images, at least 1, got {batch}")
    folder = RunFolder(target) if Path(target).exists() else None
    if folder is not None and folder.read_config().network is not None:
        if probes is not None or seed is not None or checkpoint != "last" or device not in ("auto", "cpu"):
            raise ConfigError("a converted network is compared with its ANN: of the options it takes --batch alone")
        _compare(folder, data_dir, batch or FEW, json)
        return
    probes, batch, seed = 4 if probes is None else probes, batch or 8, seed or 0
    with open_world(device) as world:
        if folder is not None:
            model, images, labels, facts = _trained(folder, checkpoint, data_dir, batch)
        else:
            model, images, labels, facts = _untrained(target, batch, seed)
        model, images, labels = model.to(world.device), images.to(world.device), labels.to(world.device)
        units = measure_isometry(model, images, probes=probes, seed=seed)
        gradients = gradient_norms(model, images, labels, seed=seed)
        if not world.is_first:
            return
    verdict = judge(units, gradients, trained=folder is not None)
    facts = {**facts, "T": model.T, "probes": probes, "batch": len(labels), "seed": seed}
    result = _result(units, gradients, verdict, facts)
    if json:
        print_json(result)
    else:
        _show(units, gradients, verdict, result)
    if folder is not None:
        folder.write_analyses({"isometry": result})  # after it was said: the disk may not take it


def _compare(folder: RunFolder, data_dir: str | None, batch: int, json: bool) -> None:
    """Compare a converted network with the ANN that it was made of."""
    config = with_data_dir(folder.read_config(), data_dir)
    with open_world("cpu") as world:
        report, facts = compare_again(folder, config, load_dataset(config.data), world, batch)
    result = {**facts, **report.as_dict()}
    if json:
        print_json(result)
    else:
        show_conversion(report)
    folder.write_analyses({"conversion": result})


def _trained(folder: RunFolder, checkpoint: str, data_dir: str | None, batch: int) -> Subject:
    config = with_data_dir(folder.read_config(), data_dir)
    dataset = load_dataset(config.data)
    classes = len(dataset.classes)
    model = load_trained(folder, config, num_classes=classes, in_channels=dataset.channels, which=checkpoint)
    chosen = torch.linspace(0, len(dataset.test) - 1, min(batch, len(dataset.test))).long()  # of many classes
    pixels = next(iter(dataset.test.batches([chosen], 0)))
    images = Augment(AugmentSpec(), dataset.mean, dataset.std, classes).test(pixels)
    facts = {"model": config.model.name, "checkpoint": checkpoint, "images": f"test images of {dataset.name}"}
    return Subject(model, images, dataset.test.labels[chosen], facts)


def _untrained(name: str, batch: int, seed: int) -> Subject:
    generator = torch.Generator().manual_seed(derive_seed(seed, 1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, 2))
        try:
            model = create_model(name)
        except UnknownName as error:
            raise UnknownName(f"there is no run folder '{name}', and as the name of a model: {error}") from error
    size = model.layout.input_size
    images = torch.randn(batch, model.in_channels, size, size, generator=generator)
    labels = torch.randint(0, model.layout.num_classes, (batch,), generator=generator)
    return Subject(model, images, labels, {"model": name, "checkpoint": None, "images": "random images"})


def _result(
    units: list[UnitIsometry], gradients: GradientNorms, verdict: Verdict, facts: dict[str, Any]
) -> dict[str, Any]:
    """Return plain values for JSON, which knows no infinity: a product of 0 has no logarithm there."""
    product = log10_product(units)
    finite = all(unit.phi.value for unit in units)
    return {
        **facts,
        "verdict": verdict.as_dict(),
        "log10_product": product.as_dict() if finite else None,
        "units": [unit.as_dict() for unit in units],
        "gradients": gradients.as_dict(),
    }


def _show(units: list[UnitIsometry], gradients: GradientNorms, verdict: Verdict, result: dict[str, Any]) -> None:
    state = f"{result['checkpoint']} checkpoint" if result["checkpoint"] else "untrained"
    out.print(
        f"{result['model']}, {state}, T={result['T']}, {result['batch']} {result['images']}, "
        f"{result['probes']} probes per unit, seed {result['seed']}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    out.print(_table(units, gradients))
    product = log10_product(units)
    interval = "" if product.error is None else f" +- {product.error:.3f}"
    out.print(f"log10 of the product of all phi: {product.value:.3f}{interval}", highlight=False, soft_wrap=True)
    for said in (verdict.main, *verdict.notes):
        out.print(f"{said.text} ({said.reason})", highlight=False, soft_wrap=True, markup=False)


def _table(units: list[UnitIsometry], gradients: GradientNorms) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("stage", "units", "phi", "least", "most", "theory", "varphi", "log10 product", "gradient"):
        table.add_column(heading, justify="left" if heading == "stage" else "right", no_wrap=True)
    for stage in sorted({unit.stage for unit in units}):
        own = [unit for unit in units if unit.stage == stage]
        phis = [unit.phi.value for unit in own]
        expected = [unit.expected.phi for unit in own if unit.expected is not None]
        table.add_row(
            str(stage),
            str(len(own)),
            *(f"{value:.3f}" for value in (median(phis), min(phis), max(phis))),
            f"{median(expected):.3f}" if expected else "-",
            f"{median(unit.varphi.value for unit in own):.3f}",
            f"{log10_product(own).value:.3f}",
            f"{gradients.inputs[own[0].name]:.2e}",
        )
    return table
