"""Layers in a row."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from isospike.layers.lowering import convolve, fuse
from isospike.layers.norm import placed
from isospike.layers.steps import Steps
from isospike.neurons import Neuron


class Chain(nn.Module):
    """Named layers in a row: neurons run through time, norms may know the step, all others see time in the batch."""

    def __init__(self, layers: Iterable[tuple[str, nn.Module]]) -> None:
        super().__init__()
        for name, layer in OrderedDict(layers).items():
            self.add_module(name, layer)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """See ``placed``."""
        super().add_module(name, placed(self._modules.get(name), module))

    def forward(self, x: Tensor, steps: Steps) -> Tensor:
        """``[T or 1, B, ...]`` to ``[T, B, ...]``; a chain without a neuron leaves a static stream static."""
        return run(list(self.children()), x, steps)


def run(layers: Sequence[nn.Module], x: Tensor, steps: Steps) -> Tensor:
    """``x`` through ``layers``, of which a norm and what follows it are one pass where they can be."""
    at = 0
    while at < len(layers):
        following = layers[at + 1] if at + 1 < len(layers) else None
        x, done = _run_first(layers[at], following, x, steps)
        at += done
    return x


def _run_first(layer: nn.Module, following: nn.Module | None, x: Tensor, steps: Steps) -> tuple[Tensor, int]:
    """What ``layer``, or it and the ``following`` one, make of ``x``, and how many they are."""
    if isinstance(following, Neuron):
        fused = fuse(layer, following, x, steps)
        if fused is not None:
            return fused.spikes(), 2
    fused = fuse(layer, None, x, steps)
    return (_run_alone(layer, x, steps) if fused is None else fused.current()), 1


def _run_alone(layer: nn.Module, x: Tensor, steps: Steps) -> Tensor:
    packed = convolve(layer, x) if isinstance(layer, nn.Conv2d) and steps.fuses else None
    if packed is not None:
        return packed
    return steps.through(layer, x)
