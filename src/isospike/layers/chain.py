"""Layers in a row."""

from collections import OrderedDict
from collections.abc import Iterable

from torch import Tensor, nn

from isospike.layers.steps import Steps


class Chain(nn.Module):
    """Runs named layers in a row: neurons see time, norms may know the step, all others see time in the batch."""

    def __init__(self, layers: Iterable[tuple[str, nn.Module]]) -> None:
        super().__init__()
        for name, layer in OrderedDict(layers).items():
            self.add_module(name, layer)

    def forward(self, x: Tensor, steps: Steps) -> Tensor:
        """Map ``[T or 1, B, ...]`` to ``[T, B, ...]``; a chain without a neuron leaves a static stream static."""
        for layer in self.children():
            x = steps.through(layer, x)
        return x
