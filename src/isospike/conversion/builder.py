"""Writes an ANN down as a program of the layers of this package."""

from dataclasses import dataclass, replace

from torch import Tensor, nn

from isospike.graph import Program, Value
from isospike.graph.recorder import Recorder, Symbol
from isospike.layers import GlobalPool, PaddedShortcut
from isospike.models import ProgramNet
from isospike.neurons import ReLU
from isospike.residual import REAL

Shape = tuple[int, ...]
RESERVED = {"", *vars(ProgramNet(Program((), Value(0, 1, REAL), (Value(0, 1, REAL),)), {}, T=1))}  # its attributes


class Unsupported(Exception):
    """A call that no program says; the text is what to do instead."""


@dataclass(frozen=True)
class Map:
    """A map of the ANN.

    Args:
        symbol: The same in the program.
        shape: What the ANN has for the example.
        is_flat: Whether the program has it as ``[B, features]``, be its shape in the ANN ``[B, features, 1, 1]``.
    """

    symbol: Symbol
    shape: Shape
    is_flat: bool


@dataclass(frozen=True)
class Row:
    """A map whose pixels the ANN has put into one row, or averaged along one side: half of a global pool."""

    whole: Map
    shape: Shape


@dataclass(frozen=True)
class Strided:
    """Every few pixels of a map, from the first on: half of a shortcut without weights."""

    whole: Map
    step: tuple[int, int]
    shape: Shape


Seen = Map | Row | Strided | Tensor


class Builder:
    """A program that grows call by call.

    Args:
        example: Shape of the example.
    """

    def __init__(self, example: Shape) -> None:
        self.recorder = Recorder()
        self.input = Map(Symbol(self.recorder, self.recorder.value(example[1], REAL)), example, is_flat=False)
        self.modules: dict[str, nn.Module] = {}
        self.name, self.shape = "", example  # of the call that is written down, and what it puts out
        self._least = example[2:]

    def call(self, x: Map, layer: nn.Module) -> Map:
        """Write ``x`` through a layer that is called this once."""
        name, count = self.name, 0
        while not self._is_free(name):
            name, count = f"{self.name}_{count + 1}", count + 1
        self.modules[name] = layer
        return self.call_again(x, layer)

    def call_again(self, x: Map, layer: nn.Module) -> Map:
        """Write ``x`` through a layer that has its name."""
        if isinstance(layer, nn.Linear) and not x.is_flat:
            raise Unsupported("a linear layer reads features: flatten or pool the map before it")
        if x.is_flat and not isinstance(layer, nn.Linear | ReLU):
            raise Unsupported("it reads a map whose pixels are gone: put it before the pool or the flattening")
        is_flat = x.is_flat or isinstance(layer, GlobalPool)
        return Map(self.recorder.through(layer, x.symbol), self.shape, is_flat)

    def add(self, x: Map, y: Map) -> Map:
        """Write the sum of two maps of one shape."""
        if x.shape != y.shape or x.is_flat != y.is_flat:
            raise Unsupported(f"it adds maps of {list(x.shape)} and {list(y.shape)}: both must have one shape")
        return Map(x.symbol + y.symbol, self.shape, x.is_flat)

    def times(self, x: Map, factor: float) -> Map:
        """Write a map times a number."""
        return Map(x.symbol * float(factor), self.shape, x.is_flat)

    def pool(self, x: Map) -> Map:
        """Write the mean of every map."""
        self._least = tuple(-(-size // pixels) for size, pixels in zip(self.input.shape[2:], x.shape[2:], strict=True))
        return self.call(x, GlobalPool())

    def shortcut(self, x: Map | Strided, before: int = 0, behind: int = 0) -> Map:
        """Write ``x`` between channels of zeros."""
        whole, step = (x.whole, x.step) if isinstance(x, Strided) else (x, (1, 1))
        if step[0] != step[1]:
            raise Unsupported(f"it takes every {step[0]}th row and every {step[1]}th column: take as many of both")
        return self.call(whole, PaddedShortcut(whole.symbol.value.channels, step[0], before, behind))

    def flatten(self, x: Map) -> Map:
        """Write ``[B, C, H, W]`` as ``[B, C * H * W]``."""
        flat = self.call(x, nn.Flatten())
        out = replace(flat.symbol.value, channels=self.shape[1])
        self.recorder.operations[-1] = replace(self.recorder.operations[-1], out=out)
        return Map(Symbol(self.recorder, out), self.shape, is_flat=True)

    def unknown(self) -> Map:
        """Stand in for what an unsupported call puts out, so that those behind it are seen too."""
        channels = self.shape[1] if len(self.shape) > 1 else 1
        return Map(Symbol(self.recorder, self.recorder.value(channels, REAL)), self.shape, len(self.shape) < 4)

    def _is_free(self, name: str) -> bool:
        """Return whether a module may have this name: it is no other's and part of no other's."""
        first = name.partition(".")[0]
        taken = any(f"{other}.".startswith(f"{name}.") or name.startswith(f"{other}.") for other in self.modules)
        return not taken and first not in RESERVED and not hasattr(ProgramNet, first)

    def network(self, logits: Map) -> ProgramNet:
        """Return all of it, in eval mode."""
        program = Program(tuple(self.recorder.operations), self.input.symbol.value, (logits.symbol.value,))
        return ProgramNet(program, self.modules, T=1, least_size=min(self._least)).eval()
