"""What was derived from a network, kept as long as the network is what it was."""

from collections.abc import Callable, Iterator
from operator import is_
from typing import Any, TypeVar

from torch import nn

from isospike.graph.recorder import is_untouched

Made = TypeVar("Made")


class Kept:
    """Things by name that were made of a network; all go when the network is no longer the same.

    It is the same while its modules are, with their classes, whether a hook sees them, and what a module that holds
    others remembers besides (its join, its layout). Weights, statistics, modes and the numbers of a neuron are none of
    this: they are read when a program runs. A copy of it, or one that is pickled, is empty.
    """

    def __init__(self) -> None:
        self._made: tuple[list[Any], dict[Any, Any]] = [], {}  # in one tuple: no thread sees the one without the other

    def get(self, network: nn.Module, name: Any, make: Callable[[], Made]) -> Made:
        """What ``make()`` gave when the network was first what it is now."""
        marks, (before, made) = list(_marks(network)), self._made
        if len(marks) != len(before) or not all(map(is_, marks, before)):
            self._made = before, made = marks, {}
        if name not in made:
            made[name] = make()
        return made[name]

    def __reduce__(self) -> tuple[type["Kept"], tuple[()]]:
        return Kept, ()


def _marks(network: nn.Module) -> Iterator[Any]:
    """Objects that are others where the network is."""
    for module in network.modules():
        yield from (module, type(module), is_untouched(module), vars(module).get("forward"))
        if module._modules:
            yield from vars(module).values()
