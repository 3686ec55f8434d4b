"""From a configuration to a model, new or with the weights of a run."""

import torch

from isospike.config import RunConfig
from isospike.models import SpikingResNet, create_model
from isospike.run_folder import RunFolder
from isospike.seeding import derive_seed
from isospike.weights import load_weights
from isospike.weights.trained import trained_weights


def build_model(config: RunConfig, *, num_classes: int, in_channels: int) -> SpikingResNet:
    """The untrained model of a run, its initial weights decided by the seed alone.

    Raises:
        IsospikeError: the model's name or options are wrong.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, 3))
        return create_model(**config.model.model_dump(), num_classes=num_classes, in_channels=in_channels)


def load_trained(run: RunFolder, config: RunConfig, *, num_classes: int, in_channels: int, which: str) -> SpikingResNet:
    """The model of a run with its "last" or "best" weights; the averaged ones where the run averages.

    Raises:
        CheckpointError: there are none, or they are damaged or another model's.
    """
    path = run.checkpoint(which)
    tensors = trained_weights(path)
    model = build_model(config, num_classes=num_classes, in_channels=in_channels)
    load_weights(model, tensors, str(path))
    return model.eval()
