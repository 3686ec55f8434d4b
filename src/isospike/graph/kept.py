"""A cache for what is derived from a network, emptied when the network has changed."""

from collections.abc import Callable
from operator import is_
from typing import Any, TypeVar

from torch import nn

from isospike.graph.recorder import is_untouched
from isospike.neurons import Neuron
from isospike.residual import Scale

Made = TypeVar("Made")


class Kept:
    """A cache by name; it is emptied when the network is no longer the same.

    It is the same while its modules are, with their classes, whether a hook sees them or ``compile()`` was called, the
    factors of sums, what a module that holds others remembers besides (its join, its layout), the geometry of
    convolutions and the rules of neurons. Weights, statistics, modes and the other numbers of a neuron are none of
    this: they are read when a program runs. A copy of it, or one that is pickled, is empty.
    """

    def __init__(self) -> None:
        self._made: tuple[list[Any], dict[Any, Any]] = [], {}  # in one tuple: no thread sees the one without the other

    def get(self, network: nn.Module, name: Any, make: Callable[[], Made]) -> Made:
        """Return what is kept under ``name``, and call ``make()`` where nothing is, or the network has changed."""
        marks, (before, made) = _marks(network), self._made
        if len(marks) != len(before) or not all(map(is_, marks, before)):
            self._made = before, made = marks, {}
        if name not in made:
            made[name] = make()
        return made[name]

    def clear(self) -> None:
        """Forget everything."""
        self._made = [], {}

    def __reduce__(self) -> tuple[type["Kept"], tuple[()]]:
        return Kept, ()


def _marks(network: nn.Module) -> list[Any]:
    """Return the objects whose identities tell whether the network is the same; every training step asks."""
    marks: list[Any] = []
    modules = [network]
    for module in modules:
        modules += (child for child in module._modules.values() if child is not None)
        own = vars(module)
        marks += (module, type(module), is_untouched(module), own.get("forward"))
        if module._modules or isinstance(module, Scale):  # a program divides by its factor
            marks += own.values()
        elif isinstance(module, nn.Conv2d):
            marks += (module.stride, module.padding, module.dilation, module.groups, module.padding_mode)
        elif isinstance(module, Neuron):
            marks += (module.levels, module.signed, own.get("rule"))
    return marks
