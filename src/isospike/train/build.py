"""From a configuration to what it names: the model, new or with the weights of a run, the batches, the loss."""

from functools import partial

import torch

from isospike.config import RunConfig
from isospike.data import Dataset, Loader, class_weights
from isospike.models import SpikingNetwork, SpikingResNet, create_model
from isospike.objectives import Objective
from isospike.run_folder import RunFolder
from isospike.seeding import derive_seed
from isospike.weights import load_weights
from isospike.weights.trained import read_program, weights_of


def build_model(config: RunConfig, *, num_classes: int, in_channels: int) -> SpikingResNet:
    """Build the untrained model of a run, its initial weights decided by the seed alone.

    Raises:
        IsospikeError: the model's name or options are wrong.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, 3))
        return create_model(**config.model.model_dump(), num_classes=num_classes, in_channels=in_channels)


def build_network(run: RunFolder, config: RunConfig, *, num_classes: int, in_channels: int) -> SpikingNetwork:
    """Build the model of a run without its weights, be it one of ``create_model`` or converted.

    Raises:
        IsospikeError: the model's name or options are wrong, or the converted network is not in the folder, damaged or
            for other images.
    """
    if config.network is None:
        return build_model(config, num_classes=num_classes, in_channels=in_channels)
    return read_program(run, config, num_classes=num_classes, in_channels=in_channels)


def load_trained(
    run: RunFolder, config: RunConfig, *, num_classes: int, in_channels: int, which: str
) -> SpikingNetwork:
    """Load the model of a run with its "last" or "best" weights; the averaged ones where the run averages.

    Raises:
        CheckpointError: there are none, or they are damaged or another model's.
    """
    tensors, path = weights_of(run, which)
    model = build_network(run, config, num_classes=num_classes, in_channels=in_channels)
    load_weights(model, tensors, str(path))
    return model.eval()


def build_train_loader(config: RunConfig, dataset: Dataset, *, rank: int = 0, world: int = 1) -> Loader:
    """Build the batches that a run trains on, or one process's share of them.

    Raises:
        DataError: there are fewer images than one batch takes.
        ConfigError: the weights of ``train.sampling`` are not those of these classes.
    """
    train = config.train
    return Loader(
        dataset.train,
        train.batch_size,
        shuffle=True,
        seed=config.seed,
        rank=rank,
        world=world,
        class_weights=class_weights(train.sampling, dataset.train.labels, len(dataset.classes), "train.sampling"),
    )


def build_run_objective(config: RunConfig, dataset: Dataset, device: torch.device) -> Objective:
    """Build the loss of a run, its classes weighted as it says.

    Raises:
        ConfigError: the weights of ``objective.class_weights`` are not those of these classes.
    """
    spec = config.objective
    weights = class_weights(spec.class_weights, dataset.train.labels, len(dataset.classes), "objective.class_weights")
    return partial(spec.loss, class_weights=None if weights is None else weights.to(device))
