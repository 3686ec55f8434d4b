"""What the instruments share: hooks that come and go, and the beginning of a sequence."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, Self, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from isospike.errors import ConfigError
from isospike.neurons import Neuron
from isospike.residual import ResidualUnit


class Instrument(ABC):
    """Hooks on a model, there while the ``with`` block runs; what flows is counted, never changed or kept.

    Args:
        model: Any module whose neurons are ``Neuron``.

    Raises:
        ConfigError: no neuron of it puts out spikes.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.neurons = dict(spiking(model))
        if not self.neurons:
            raise ConfigError(
                f"this {type(model).__name__} has no spiking neuron, so there are no spikes to count; the energy of an "
                "ANN stands beside that of the spiking network with its layers"
            )
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        self._handles = [self.model.register_forward_pre_hook(_check_finite), *self._hooks()]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    @abstractmethod
    def _hooks(self) -> Iterable[RemovableHandle]:
        """Register all of them."""


def spiking(model: nn.Module) -> Iterator[tuple[str, Neuron]]:
    """Yield the neurons that put out spikes or counts of them, by name."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, Neuron) and m.levels is not None)


def entrances(unit: ResidualUnit) -> list[nn.Module]:
    """List the modules of which the first that runs reads what the unit reads.

    A stage may run the parts of a unit and not the unit; one of another class need not have the parts.
    """
    parts: list[nn.Module] = [unit.shared] if hasattr(unit, "shared") else []
    return parts if runs_as_its_row(unit) else [unit, *parts]


def runs_as_its_row(module: nn.Module) -> TypeGuard[ResidualUnit]:
    """Return whether it is a residual unit without a forward of its own."""
    own = "forward" in vars(module) or type(module).forward is not ResidualUnit.forward
    return isinstance(module, ResidualUnit) and not own


def starts_from_rest(inputs: tuple[Any, ...]) -> bool:
    """Return whether a call of a neuron with these arguments begins a sequence, and gives it no potential."""
    return len(inputs) < 2 or inputs[1] is None


def sum_over_batch(x: Tensor) -> Tensor:
    """Sum ``[N, ...]`` over N, in float32 or wider; exact for counts up to 2^24.

    As a product with ones, in the order in which the numbers lie in memory: several times faster than a reduction.
    """
    if x.dtype not in (torch.float32, torch.float64):
        return x.sum(0, dtype=torch.float32)
    if x.dim() != 4:
        return (x.new_ones(len(x)) @ x.reshape(len(x), -1)).view(x.shape[1:])
    rows = x.permute(0, 2, 3, 1)
    return (x.new_ones(len(x)) @ rows.reshape(len(x), -1)).view(rows.shape[1:]).permute(2, 0, 1)


def _check_finite(_: nn.Module, inputs: tuple[Any, ...]) -> None:
    for x in inputs:
        if isinstance(x, Tensor) and x.is_floating_point() and not x.isfinite().all():
            raise ConfigError(
                f"a batch of shape {list(x.shape)} holds numbers that are not finite: no count of what flows would "
                "mean anything"
            )
