"""The trained network of a run folder."""

import warnings
from pathlib import Path

from isospike.errors import CheckpointError, ConfigError, IsospikeWarning
from isospike.inputs import Inputs
from isospike.run_folder import RunFolder
from isospike.weights.files import Tensors, load_tensors, under
from isospike.weights.saved import Saved


def trained_weights(path: Path) -> Tensors:
    """Read the weights in a checkpoint of a run: the averaged ones where the run averages.

    Raises:
        CheckpointError: there is no such file, or it is damaged.
    """
    tensors, _ = load_tensors(path)
    return under("ema", tensors) or under("model", tensors)


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
    return Saved({**options, **sizes}, tensors, run.config, weights, inputs)


def _weights(run: RunFolder, checkpoint: str | None) -> tuple[Tensors, Path]:
    if checkpoint is not None:
        return trained_weights(run.checkpoint(checkpoint)), run.checkpoint(checkpoint)
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
