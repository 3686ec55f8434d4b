"""How a branch and its skip become one."""

import operator
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from isospike.registry import Registry


@dataclass(frozen=True)
class Join:
    """An element-wise join of a branch and a skip.

    Args:
        name: As in ``join=`` of ``create_model``.
        fn: ``fn(branch, skip)``; a function with a name of its own, not a lambda, so that models can be pickled.
        neutral: The value of the branch that leaves the skip as it is.
        binary: Whether it is meant for spikes in {0, 1} only.
        linear: Whether it is the sum, which also joins more than two.
    """

    name: str
    fn: Callable[[Tensor, Tensor], Tensor]
    neutral: float
    binary: bool
    linear: bool = False

    def __call__(self, *, branch: Tensor, skip: Tensor) -> Tensor:
        """Join both ``[T, B, C, H, W]``, the skip also ``[1, ...]``; by keyword, as not every join is symmetric."""
        return self.fn(branch, skip)


def _inhibit(branch: Tensor, skip: Tensor) -> Tensor:
    """Return the skip where the branch is silent."""
    return (1 - branch) * skip


JOINS: Registry[Join] = Registry("join")

ADD = Join("add", operator.add, neutral=0.0, binary=False, linear=True)
AND = Join("and", operator.mul, neutral=1.0, binary=True)
IAND = Join("iand", _inhibit, neutral=0.0, binary=True)

for _join in (ADD, AND, IAND):
    JOINS.register(_join.name, _join)
