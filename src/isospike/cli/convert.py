"""``isospike convert``: from a trained ANN to the folder of a spiking network."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from pydantic import TypeAdapter, ValidationError
from rich.table import Table
from torch import nn

from isospike.analysis import ENERGY_TABLES
from isospike.analysis.conversion import PARTS, ConversionReport
from isospike.cli.console import Checkpoint, DataDir, Import, Json, err, out, print_json
from isospike.cli.converted import LOSS, TABLE, Conversion, Shown, config_of_own, write_converted
from isospike.cli.report import try_report
from isospike.config import RunConfig, apply_overrides, with_data_dir, with_data_keys
from isospike.conversion import METHODS, capture
from isospike.data import Dataset, load_dataset
from isospike.errors import ConfigError, IsospikeWarning
from isospike.evaluation import Evaluation, FastNetwork
from isospike.inputs import Inputs
from isospike.models import ProgramNet
from isospike.neurons import QCFS
from isospike.own_rows import call_function, import_rows
from isospike.processes import open_world
from isospike.registry import check_options
from isospike.run_folder import RunFolder, new_folder
from isospike.train.build import load_trained

FEWEST = 2.0  # times the accuracy of guessing, from which on an ANN is taken to read its images rightly
FEWEST_VALUES = 3  # that a neuron has besides 0


def convert_command(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FILE.py:FUNCTION",
            help="Folder of a trained ANN, or a function that returns one; this runs FILE.py.",
        ),
    ],
    method: Annotated[str, typer.Option(help="How; iso.list_methods() names them.")] = "s_resnet",
    steps: Annotated[int | None, typer.Option("-T", "--T", min=1, help="Time steps; by default the method's.")] = None,
    images: Annotated[
        int, typer.Option(min=1, help="Training images to calibrate on, of every class its share.")
    ] = 500,
    test_images: Annotated[
        int | None, typer.Option(min=1, help="Test images, of every class its share; by default all.")
    ] = None,
    loss: Annotated[float, typer.Option(help="Share of accuracy that may be lost, for the advice on T.")] = LOSS,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Option of the method, as method.quantile=0.9999, or key of data."
        ),
    ] = None,
    data_dir: DataDir = None,
    checkpoint: Checkpoint = "last",
    table: Annotated[str, typer.Option(help="What an operation costs, as 45nm_float32.")] = TABLE,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Folder; by default a new one below runs/.")] = None,
    import_: Import = None,
    json: Json = False,
) -> None:
    """Convert a trained ANN into a spiking network, with its accuracy at every T and where its errors come from.

    The ANN is tested first. The folder that is written is like that of a run: eval, energy, analyze, predict and report
    read it, and train --from trains it on. Images of training alone choose anything; test images are for the figures.
    """
    import_rows(import_)
    ENERGY_TABLES[table]
    if not 0 <= loss < 1:
        raise ConfigError(f"--loss is a share of accuracy in [0, 1), as 0.01 for one point, got {loss}")
    say = err.print if json else out.print
    chosen, keys = _options(method, set_ or [])
    with open_world("cpu") as world:
        ann, config, dataset = _read(target, keys, data_dir, checkpoint)
        folder = RunFolder(out_dir or new_folder(f"{config.recipe}_{method}"))
        if folder.config.exists():
            raise ConfigError(f"{folder.path} already holds a run: name another --out")
        shown = Shown(config, dataset, images, test_images, world)
        captured = capture(ann, shown.calibration)
        captured.inputs = Inputs.from_facts(dataset.facts())
        of_ann = shown.test(captured, "the ANN")
        say(_ann_in_words(config, dataset, of_ann), highlight=False, soft_wrap=True)
        _warn_of_chance(of_ann, dataset)
        steps_said = {} if steps is None else {"T": steps}
        say(f"converting by {method} on {len(shown.calibration):,} training images ...", highlight=False)
        net = METHODS[method].convert(captured, shown.calibration.split(128), **steps_said, **chosen)
        net.inputs = captured.inputs
        _warn_of_coding(net, captured)
        tested = shown.test(FastNetwork(net, "float32"), "the converted network")
        report = shown.report(captured, net, of_ann, tested, loss, table)
    conversion = Conversion(method, chosen, len(shown.calibration), captured, net, report, tested, table)
    result = conversion.as_dict(config, dataset)
    if json:
        print_json(result)
    else:
        show_conversion(report)
    write_converted(folder, config, dataset, conversion)  # after it was said: the disk may not take it
    say(f"train it on: isospike train --from {folder.path}", highlight=False, soft_wrap=True, markup=False)
    if not json:
        try_report(folder)


def _options(method: str, changes: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Read options of the method, of their kind, and what is left for the data.

    Raises:
        UnknownName: no such method, or it has no such option.
        ConfigError: a key of something else, or a value of another kind than the option takes.
    """
    function = METHODS[method].function
    own = [change.removeprefix("method.") for change in changes if change.startswith("method.")]
    keys = [change for change in changes if not change.startswith("method.")]
    for key in (key for key in keys if not key.startswith(("data.", "data="))):
        raise ConfigError(f"--set of convert takes method.OPTION=VALUE and keys of data, as data.size=8, got '{key}'")
    options = apply_overrides({}, own)
    for key in (key for key in ("T",) if key in options):
        raise ConfigError(f"--set method.{key}: give -T {options[key]}")
    check_options(f"method '{method}'", function, options)
    kinds = get_type_hints(function)
    for name, value in options.items():
        try:
            options[name] = TypeAdapter(kinds[name]).validate_python(value, strict=not isinstance(value, int))
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            raise ConfigError(f"--set method.{name}: {message[0].lower()}{message[1:]}, got {value!r}") from error
    return options, keys


def _read(
    target: str, keys: Sequence[str], data_dir: str | None, checkpoint: str
) -> tuple[nn.Module, RunConfig, Dataset]:
    """Read the ANN, the configuration that says what its images are, and these.

    Raises:
        ConfigError: there is no such run, file or function, or it gives no network; or the data are not named.
    """
    if ".py" in target and not Path(target).is_dir():
        ann = call_function(target)
        if not isinstance(ann, nn.Module):
            raise ConfigError(f"{target} must return a trained nn.Module, and returns a {type(ann).__name__}")
        config = with_data_dir(config_of_own(target.rpartition(":")[2], type(ann).__name__, keys), data_dir)
        return ann, config, load_dataset(config.data)
    run = RunFolder(target)
    if not run.path.is_dir():
        raise ConfigError(f"there is no run folder {target}; an ANN of your own is named as FILE.py:function")
    config = with_data_dir(with_data_keys(run.read_config(), keys), data_dir)
    dataset = load_dataset(config.data)
    classes, channels = len(dataset.classes), dataset.channels
    model = load_trained(run, config, num_classes=classes, in_channels=channels, which=checkpoint)
    return model, config, dataset


def _ann_in_words(config: RunConfig, dataset: Dataset, tested: Evaluation) -> str:
    note = f" ({dataset.note})" if dataset.note else ""
    return (
        f"the ANN, {config.model.name}: accuracy {tested.accuracy:.2%} on {tested.count:,} test images of "
        f"{dataset.name}{note} at {dataset.tested_at} pixels"
    )


def _warn_of_chance(tested: Evaluation, dataset: Dataset) -> None:
    """Warn of an ANN that guesses: it is most often one whose images are not those that it was trained on."""
    classes = len(dataset.classes)
    if tested.accuracy < FEWEST / classes:
        _warn(
            f"an ANN that finds {tested.accuracy:.2%} of {classes} classes reads other images than it was trained on: "
            f"here they are normalised by mean {list(dataset.mean)} and std {list(dataset.std)}, which "
            "--set data.mean=[...] --set data.std=[...] change; the order of the classes may differ too. The spiking "
            "network will be no better"
        )


def _warn_of_coding(net: ProgramNet, ann: ProgramNet) -> None:
    """Warn of fewer values than an activation needs, or than the ANN was trained with."""
    trained = [module.L for module in ann.modules() if isinstance(module, QCFS)]
    neurons = [net.get_submodule(name) for name in net.units]
    values = net.T * min(int(neuron.levels) for neuron in neurons)  # type: ignore[arg-type]
    if trained and values < max(trained):
        _warn(
            f"the ANN was trained to be read in L={max(trained)} steps, and T={net.T} tells fewer activations apart: "
            "errors of rounding that it never learnt to bear"
        )
    elif values < FEWEST_VALUES:
        _warn(
            f"in T={net.T} steps a neuron tells only {values + 1} activations apart, which is coarse: take more "
            "steps, or neurons of several levels"
        )


def _warn(text: str) -> None:
    warnings.warn(text, IsospikeWarning, stacklevel=3)


def show_conversion(report: ConversionReport) -> None:
    """Print accuracy and energy by T, errors by layer, and what follows."""
    out.print(_steps_table(report))
    out.print(_layer_table(report))
    if report.early_exit is not None:
        early = report.early_exit
        out.print(
            f"early exit: {early.accuracy:.2%} of {early.images} test images in {early.average_steps:.2f} steps on "
            f"average, with a margin that keeps {early.agreement:.0%} of the answers on calibration images",
            highlight=False,
            soft_wrap=True,
        )
    for sentence in report.recommendation:
        out.print(sentence, highlight=False, soft_wrap=True, markup=False)


def _steps_table(report: ConversionReport) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("T", "accuracy", "lost", "uJ", "spikes per neuron"):
        table.add_column(heading, justify="right", no_wrap=True)
    for step in report.energy:
        accuracy = report.accuracy[step.T - 1]
        lost, uj = f"{100 * (report.ann_accuracy - accuracy):.2f}", f"{1e3 * step.mj:,.3f}"
        table.add_row(str(step.T), f"{accuracy:.2%}", lost, uj, f"{step.spikes_per_neuron:.3f}")
    table.add_row("ANN", f"{report.ann_accuracy:.2%}", "0.00", f"{1e3 * report.ann_mj:,.3f}", "")
    return table


def _layer_table(report: ConversionReport) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", overflow="fold", min_width=max(len(layer.name) for layer in report.layers))
    for heading in ("error", *PARTS, "correlation"):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in report.layers:
        shares = [f"{getattr(layer, part):.1%}" for part in ("error", *PARTS)]
        table.add_row(layer.name, *shares, "-" if layer.correlation is None else f"{layer.correlation:.3f}")
    return table
