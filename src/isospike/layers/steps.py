"""How a network goes through time.

A sequence is ``[T, B, ...]``. What is the same at every step (a static image, and all that is computed from it
before the first neuron) is kept as ``[1, B, ...]``: it is computed once, and copied nowhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

from torch import Tensor, nn

from isospike.layers.norm import PerStepNorm
from isospike.neurons import Neuron


@dataclass
class Steps:
    """The stretch of time that one forward covers.

    Args:
        T: Number of steps.
        v: Potentials ``[B, ...]`` by neuron, read at the start and replaced by those at the end; None: every neuron
            starts from rest and nothing is kept.
        start: Which time step is the first, counted from 0.
    """

    T: int
    v: dict[Neuron, Tensor] | None = None
    start: int = 0

    def unroll(self, x: Tensor) -> Tensor:
        """View a stream ``[T or 1, B, ...]`` as ``[T, B, ...]``, without a copy."""
        if x.dim() != 5:
            return x.expand(self.T, *x.shape[1:])
        # Through the order of memory: PyTorch sums the gradient of a view in the order of its dimensions.
        rows = x.permute(0, 1, 3, 4, 2)
        return rows.expand(self.T, *rows.shape[1:]).permute(0, 1, 4, 2, 3)

    def fire(self, neuron: Neuron, x: Tensor) -> Tensor:
        """Compute spikes ``[T, B, ...]`` of ``neuron`` for a current ``[T or 1, B, ...]``."""
        before = None if self.v is None else self.v.get(neuron)
        s, v = neuron(self.unroll(x), before)
        if self.v is not None:
            self.v[neuron] = v
        return s

    def through(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Run ``x [T or 1, B, ...]`` through any layer: norms may know the step, and most see time in the batch."""
        if isinstance(layer, Neuron):
            return self.fire(layer, x)
        if isinstance(layer, PerStepNorm):
            return layer(self.unroll(x), self.start)
        return fold_time(layer, x)

    def run(self, module: nn.Module, x: Tensor | Sequence[Tensor]) -> Tensor:
        """Run ``x [T or 1, B, ...]``, or several of them, through a module that itself runs through time."""
        return module(x, self)

    def join(self, join: Callable[..., Tensor], *, branch: Tensor, skip: Tensor) -> Tensor:
        """Compute ``join(branch=, skip=)`` of two streams ``[T or 1, B, ...]``."""
        return join(branch=branch, skip=skip)

    def in_turn(self, segments: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
        """Run ``x`` through functions in a row, at whose borders a program may be cut."""
        return reduce(lambda x, segment: segment(x), segments, x)


def fold_time(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a layer that knows no time to every step of ``x [T, B, ...]``, as one batch of ``T * B``."""
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
