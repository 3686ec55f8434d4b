"""Weights of classes."""

import torch
from torch import Tensor

from isospike.config import ClassWeights
from isospike.errors import ConfigError


def class_weights(spec: ClassWeights, labels: Tensor, num_classes: int, key: str) -> Tensor | None:
    """A weight for every class, scaled so that they are 1 on average over the images.

    Args:
        spec: "balanced" makes the weights of the images of a class add up to the same for every class.
        labels: Of the images, int64 ``[N]``.
        num_classes: Classes.
        key: Of the configuration, for the error.

    Returns:
        float32 ``[num_classes]``; None where the spec is None.

    Raises:
        ConfigError: not a weight for every class.
    """
    if spec is None:
        return None
    counts = torch.bincount(labels, minlength=num_classes).double()
    if spec == "balanced":
        weights = 1 / counts.clamp(min=1)
    elif len(spec) == num_classes:
        weights = torch.tensor(spec, dtype=torch.float64)
    else:
        raise ConfigError(f"{key} has {len(spec)} numbers, and the data have {num_classes} classes")
    return (weights * len(labels) / (weights * counts).sum()).float()
