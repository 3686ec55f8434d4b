"""Initialisation of convolutions, by the name that a topology's row gives."""

from collections.abc import Callable

from torch import nn

from isospike.registry import Registry


def _pytorch(conv: nn.Conv2d) -> None:
    """PyTorch's own default, already in place."""


def _kaiming_fan_out(conv: nn.Conv2d) -> None:
    """Normal with variance 2 / (out_channels * kernel area)."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")


CONV_INITS: Registry[Callable[[nn.Conv2d], None]] = Registry("initialisation of convolutions")
CONV_INITS.register("pytorch", _pytorch)
CONV_INITS.register("kaiming_fan_out", _kaiming_fan_out)
