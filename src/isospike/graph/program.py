"""A network as operations on numbered maps: convolutions, what stands between them, and layers of other kinds.

Operations name the layers of the network, whose weights stay where they are: a program says what is done, and whoever
runs it decides how.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from isospike.layers import PerStepNorm, SlotConv, Steps
from isospike.neurons import Neuron
from isospike.residual import Domain, Join

JoinName = Literal["add", "and", "iand"]


@dataclass(frozen=True)
class Value:
    """A map: its number, its channels, and what its elements may be."""

    number: int
    channels: int
    domain: Domain

    def __hash__(self) -> int:
        return self.number  # it is looked up several times for every operation that runs


class Complement:
    """The affine ``1 - x``."""


Affine = nn.Module | float | Complement
"""What multiplies and shifts every channel: a norm, a ``Scale`` or ``Weigh``, a number, ``1 - x``, or a convolution
whose outputs read one pixel of their own channel."""


@dataclass(frozen=True, eq=False)
class Conv:
    """A convolution, its output through an affine that is yet to be folded into its weights, added ``onto`` a map.

    Args:
        x: What it reads.
        out: What it puts out.
        module: The layer of the network: a convolution, or one that runs in slots.
        affine: Behind it.
        onto: The map that it is added to.
    """

    x: Value
    out: Value
    module: nn.Conv2d | SlotConv
    affine: Affine | None = None
    onto: Value | None = None

    @property
    def layer(self) -> nn.Conv2d:
        """The convolution itself, which has the weights and the geometry; its bias is that of the module."""
        return self.module.conv if isinstance(self.module, SlotConv) else self.module

    def reads(self) -> tuple[Value, ...]:
        """Return its inputs."""
        return (self.x,) if self.onto is None else (self.x, self.onto)


@dataclass(frozen=True, eq=False)
class Between:
    """``total = x + y; s = fire(total); out = join(s, z)``, with affines behind x, y and total.

    A join that is not made of ``+``, ``*`` and ``1 - x`` is the ``Join`` itself.
    """

    x: Value
    out: Value
    y: Value | None = None
    z: Value | None = None
    x_affine: Affine | None = None
    y_affine: Affine | None = None
    affine: Affine | None = None
    neuron: Neuron | None = None
    join: JoinName | Join | None = None
    total: Value | None = None

    def reads(self) -> tuple[Value, ...]:
        """Return its inputs."""
        return tuple(value for value in (self.x, self.y, self.z) if value is not None)

    @property
    def is_affine(self) -> bool:
        """Whether it is nothing but an affine of one map."""
        return self.x_affine is not None and self.y is None and self.z is None and self.neuron is None

    @property
    def is_sum(self) -> bool:
        """Whether it is nothing but a sum of two maps, each through its affine or none."""
        return self.y is not None and self.z is None and self.neuron is None and self.affine is None

    @property
    def knows_steps(self) -> bool:
        """Whether an affine differs from step to step."""
        return any(isinstance(affine, PerStepNorm) for affine in (self.x_affine, self.y_affine, self.affine))


@dataclass(frozen=True, eq=False)
class Call:
    """A call of a module as it is.

    Args:
        x: What it reads.
        out: What it puts out.
        module: A layer, or a module that runs through time itself.
        timed: Whether it is such a module, which is called with ``Steps``.
        several: The maps that it reads as one list, the last of them ``x``; None: it reads ``x`` alone.
    """

    x: Value
    out: Value
    module: nn.Module
    timed: bool = False
    several: tuple[Value, ...] | None = None

    def reads(self) -> tuple[Value, ...]:
        """Return its inputs."""
        return (self.x,) if self.several is None else self.several

    def run(self, maps: Mapping[Value, Any], steps: Steps) -> Any:
        """Call the module on ``maps``, ``[T or 1, B, ...]`` each, and return what it puts out."""
        x: Any = maps[self.x] if self.several is None else [maps[value] for value in self.several]
        return steps.run(self.module, x) if self.timed else steps.through(self.module, x)


Operation = Conv | Between | Call


@dataclass(frozen=True, eq=False)
class Program:
    """A sequence of operations on maps.

    Args:
        operations: Every value is written before it is read, and once.
        input: The map that comes from outside.
        results: The maps that are asked for.
        segments: Positions of operations that activation checkpointing may compute anew, as runs of units in a row.
    """

    operations: tuple[Operation, ...]
    input: Value
    results: tuple[Value, ...]
    segments: tuple[tuple[range, ...], ...] = ()


def timed_values(operations: Iterable[Operation]) -> set[Value]:
    """Find the maps that may differ from step to step for a static image."""
    timed: set[Value] = set()
    for op in operations:
        if any(value in timed for value in op.reads()) or _begins_time(op):
            timed.update(writes(op))
    return timed


def _begins_time(op: Operation) -> bool:
    if isinstance(op, Between):
        return op.neuron is not None or op.knows_steps
    return isinstance(op, Call) and any(isinstance(m, Neuron | PerStepNorm) for m in op.module.modules())


def writes(operation: Operation) -> tuple[Value, ...]:
    """Return its outputs."""
    if isinstance(operation, Between) and operation.total is not None:
        return operation.out, operation.total
    return (operation.out,)


def uses(operations: Iterable[Operation], results: Iterable[Value]) -> Counter[Value]:
    """Count how often each map is read; a result counts once more."""
    return Counter([value for operation in operations for value in operation.reads()] + [*results])
