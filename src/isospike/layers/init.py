"""Initialisation of convolutions and classifiers, by the name that a topology's row gives."""

from collections.abc import Callable

from torch import nn

from isospike.registry import Registry

Layer = nn.Conv2d | nn.Linear


def _pytorch(layer: Layer) -> None:
    """Leave PyTorch's own default in place."""


def _kaiming_fan_out(layer: Layer) -> None:
    """Draw convolutions with variance 2 / (out_channels * kernel area); leave classifiers as in PyTorch."""
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def _kaiming_fan_in(layer: Layer) -> None:
    """Draw all weights with variance 2 / (inputs of an output)."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


WEIGHT_INITS: Registry[Callable[[Layer], None]] = Registry("initialisation of weights")
WEIGHT_INITS.register("pytorch", _pytorch)
WEIGHT_INITS.register("kaiming_fan_out", _kaiming_fan_out)
WEIGHT_INITS.register("kaiming_fan_in", _kaiming_fan_in)
