"""Weights of classes."""

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator
from torch import Tensor

from isospike.errors import ConfigError


def _checked_class_weights(value: Any) -> Any:
    numbers = isinstance(value, list | tuple) and all(type(weight) in (int, float) for weight in value)
    if value is None or value == "balanced" or (numbers and all(0 < weight < math.inf for weight in value)):
        return tuple(map(float, value)) if numbers else value
    raise ValueError(f"it is 'balanced', or a list with a number above 0 for every class, got {value!r}")


# Of every class in the order of their labels; "balanced": such that classes count alike, however many images they have.
ClassWeights = Annotated[Literal["balanced"] | tuple[float, ...] | None, BeforeValidator(_checked_class_weights)]


def class_weights(spec: ClassWeights, labels: Tensor, num_classes: int, key: str) -> Tensor | None:
    """Return a weight for every class, scaled so that they are 1 on average over the images.

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
