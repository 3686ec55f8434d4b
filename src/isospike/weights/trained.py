"""The trained network of a run folder."""

import warnings
from pathlib import Path

from isospike.config import RunConfig
from isospike.errors import CheckpointError, ConfigError, IsospikeWarning
from isospike.inputs import Inputs
from isospike.models import ProgramNet
from isospike.run_folder import RunFolder, read_json
from isospike.weights.files import Tensors, load_tensors, under
from isospike.weights.saved import Saved, program_of


def trained_weights(path: Path) -> Tensors:
    """Read the weights in a checkpoint of a run: the averaged ones where the run averages.

    Raises:
        CheckpointError: there is no such file, or it is damaged.
    """
    tensors, _ = load_tensors(path)
    return under("ema", tensors) or under("model", tensors)


def weights_of(run: RunFolder, checkpoint: str) -> tuple[Tensors, Path]:
    """Read the "last" or "best" weights of a run, or all that it has where it was not trained; name their file.

    Raises:
        CheckpointError: there are none, or they are damaged.
    """
    path = run.checkpoint(checkpoint)
    if checkpoint == "last" and not path.is_file() and run.weights.is_file():
        return load_tensors(run.weights)[0], run.weights
    return trained_weights(path), path


def read_run(path: Path | str, checkpoint: str | None = None) -> Saved:
    """Read the network of a run, and what its inputs must be.

    Args:
        path: The folder, of a run that has ended or not.
        checkpoint: "last" or "best". None: the weights at the end of training; where training has not ended, those of
            the last checkpoint, which a warning says.

    Raises:
        ConfigError: there is no run, it says nothing of its images, or one of its files is damaged.
        CheckpointError: there are no weights, or they are damaged.
    """
    run = RunFolder(path)
    config = run.read_config()
    facts = run.read_analysis("data")
    if facts is None:
        raise ConfigError(
            f"{run.path} holds no analysis/data.json, which says what its images were and names the classes: "
            "was it trained by isospike train?"
        )
    try:
        inputs = Inputs.from_facts(facts)
    except ConfigError as error:
        raise ConfigError(f"{run.analysis('data')}: {error}") from error
    sizes = {"num_classes": len(inputs.classes), "in_channels": inputs.channels}
    options = {key: value for key, value in config.model.model_dump().items() if value is not None}
    tensors, weights = _weights(run, checkpoint)
    if config.network is not None:
        path = run.path / config.network
        changes = {key: options[key] for key in ("T",) if key in options}
        return Saved(changes, tensors, path, weights, inputs, network=read_json(path))
    return Saved({**options, **sizes}, tensors, run.config, weights, inputs)


def read_program(run: RunFolder, config: RunConfig, *, num_classes: int, in_channels: int) -> ProgramNet:
    """Read the converted network of a run, without its weights.

    Raises:
        ConfigError: there is none in the folder, or it is damaged.
        CheckpointError: it is for other images or classes.
    """
    assert config.network is not None
    path = run.path / config.network
    T = config.model.model_dump()["T"]
    model = program_of(read_json(path), path, {} if T is None else {"T": T})
    for what, own, given in (("classes", model.num_classes, num_classes), ("channels", model.in_channels, in_channels)):
        if own != given:
            raise CheckpointError(f"the network in {path} is for {own} {what}, and the data have {given}")
    return model


def _weights(run: RunFolder, checkpoint: str | None) -> tuple[Tensors, Path]:
    if checkpoint is not None:
        return weights_of(run, checkpoint)
    if run.weights.is_file():
        return load_tensors(run.weights)[0], run.weights
    last = run.checkpoint("last")
    if not last.is_file():
        raise CheckpointError(f"{run.path} holds no weights yet: there is neither {run.weights} nor {last}")
    warnings.warn(
        f"{run.path} was not trained to its end: these are the weights of its last checkpoint",
        IsospikeWarning,
        stacklevel=4,
    )
    return trained_weights(last), last
