"""What a run writes beside its training: what it ran on, the facts of its data, its model's card."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from isospike.config import RunConfig
from isospike.data import Dataset
from isospike.errors import ConfigError
from isospike.models import SpikingNetwork, model_card
from isospike.run_folder import RunFolder, read_json, write_json
from isospike.train.environment import environment
from isospike.writing import atomic_write

DECISIVE = ("classes", "channels", "size", "train_images")  # facts of the data that a run cannot change


def create_run(run: RunFolder, config: RunConfig, dataset: Dataset, device: torch.device) -> None:
    """Make the run folder, with what stands beside the training in it.

    Raises:
        ConfigError: there is a run in it already, or it cannot be made.
        RunFailed: the disk does not take it.
    """
    run.create(config, environment(device))
    if config.network is not None:
        _take_network(run, home_of(run, config), config)
    complete_run(run, config, dataset, device)


def _take_network(run: RunFolder, origin: RunFolder, config: RunConfig) -> None:
    """Copy a converted network, what is said of it and its ANN from the folder that the run begins from."""
    assert config.network is not None
    write_json(run.path / config.network, read_json(origin.path / config.network))
    write_json(run.analysis("model"), {**(origin.read_analysis("model") or {}), "T": config.model.model_dump()["T"]})
    for path in origin.ann.glob("*"):
        with atomic_write(run.ann / path.name) as part:
            run.ann.mkdir(exist_ok=True)
            part.write_bytes(path.read_bytes())


def complete_run(run: RunFolder, config: RunConfig, dataset: Dataset, device: torch.device) -> None:
    """Write what a run that was killed in its first moments did not come to.

    Raises:
        ConfigError: the data are not those that the run began with.
        RunFailed: the disk does not take it.
    """

    def card() -> dict[str, Any]:
        return model_card(
            **config.model.model_dump(),
            input_size=dataset.size,
            num_classes=len(dataset.classes),
            in_channels=dataset.channels,
        ).as_dict()

    makers: dict[Path, Callable[[], dict[str, Any]]] = {
        run.environment: lambda: environment(device),
        run.analysis("data"): dataset.facts,
    }
    if config.network is None:
        makers[run.analysis("model")] = card
    for path, make in makers.items():
        if not path.is_file():
            write_json(path, make())
    _check_same_data(run.analysis("data"), dataset)


def home_of(run: RunFolder, config: RunConfig) -> RunFolder:
    """Find the folder that holds the network of a run: its own, or that of the converted network where it begins.

    Raises:
        ConfigError: neither does.
    """
    if config.network is None or (run.path / config.network).is_file():
        return run
    origin = RunFolder(config.train.weights or run.path)
    if not (origin.path / config.network).is_file():
        raise ConfigError(f"{origin.path} holds no {config.network}: name a converted network with --from")
    return origin


def check_steps(config: RunConfig, model: SpikingNetwork, dataset: Dataset) -> None:
    """Refuse a run whose model does not go through the time that its data have, or cannot augment them so.

    Raises:
        ConfigError: with the key, and what would be right.
    """
    config.augment.check_fits(dataset.T)
    if dataset.T not in (None, model.T):
        recordings = f"the recordings of {dataset.name} have T={dataset.T} steps"
        raise ConfigError(f"{recordings} and the model runs T={model.T}: set model.T={dataset.T}")


def _check_same_data(path: Path, dataset: Dataset) -> None:
    before, now = read_json(path), {**dataset.facts(), "classes": list(dataset.classes)}
    for key in DECISIVE:
        if before.get(key, now[key]) != now[key]:
            was = f"{path} says {key} = {_short(before[key])} and the data now have {_short(now[key])}"
            raise ConfigError(f"{was}: bring the data back with which the run began, or start a new run")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:50]}... ({len(value)})"
