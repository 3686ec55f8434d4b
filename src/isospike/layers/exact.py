"""Tells whether a layer does what its class is known to do, and nothing else."""

from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations


def is_exactly(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Return whether ``layer`` is of this class and of none that inherits from it, which may do something else.

    A layer whose weights are parametrised is: they are computed when they are read.
    """
    return type_before_parametrizations(layer) is kind and "forward" not in vars(layer)
