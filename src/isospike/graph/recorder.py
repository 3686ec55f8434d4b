"""Runs a network's own forward on symbols, and writes down what it does."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module

from isospike.errors import ConfigError
from isospike.graph.network import Network
from isospike.graph.program import Between, Call, Complement, Conv, Operation, Program, Value
from isospike.layers import BatchNorm, PaddedShortcut, PerStepNorm, SlotConv, Steps, is_exactly, is_plain_conv
from isospike.neurons import Neuron, ReLU, is_recurrence
from isospike.ops.conv2d import geometry_of
from isospike.residual import BINARY, REAL, Domain, Scale, Weigh


class Unrecordable(ConfigError):
    """A network does something to a map that no program says."""


class Symbol:
    """Stands for a map ``[T or 1, B, C, H, W]``: what is done to it is written down.

    It knows the arithmetic of joins and sums.
    """

    def __init__(self, recorder: "Recorder", value: Value) -> None:
        self.recorder, self.value = recorder, value

    def __add__(self, other: "Symbol") -> "Symbol":
        return self.recorder.between(self, self.value.domain + other.value.domain, y=other.value)

    def __mul__(self, other: "Symbol | float") -> "Symbol":
        if isinstance(other, int | float):
            return self.recorder.between(self, REAL, x_affine=float(other))
        domain = other.value.domain if self.value.domain == BINARY else REAL
        return self.recorder.between(self, domain, z=other.value, join="and")

    def __truediv__(self, divisor: float) -> "Symbol":
        return self * (1 / divisor)

    def __rsub__(self, one: float) -> "Symbol":
        if one != 1:
            return NotImplemented
        domain = BINARY if self.value.domain == BINARY else REAL
        return self.recorder.between(self, domain, x_affine=Complement())


class Recorder(Steps):
    """The time of a recording: layers are written down instead of being run."""

    def __init__(self) -> None:
        super().__init__(T=1)
        self.operations: list[Operation] = []
        self.segments: list[tuple[range, ...]] = []
        self.count = 0

    def value(self, channels: int, domain: Domain) -> Value:
        """Make a new map."""
        self.count += 1
        return Value(self.count - 1, channels, domain)

    def between(self, x: Symbol, domain: Domain, **parts: Any) -> Symbol:
        """Write down an operation that keeps the shape of ``x``."""
        out = self.value(x.value.channels, domain)
        self.operations.append(Between(x.value, out, **parts))
        return Symbol(self, out)

    def unroll(self, x: Any) -> Any:
        """Return the map: it is the same in a program, whether it is kept once or for every step."""
        return x

    def join(self, join: Any, *, branch: Any, skip: Any) -> Any:
        """Write down the arithmetic of a join, or the join itself where it is none."""
        first, count = len(self.operations), self.count
        try:
            return join(branch=branch, skip=skip)
        except (TypeError, AttributeError):
            del self.operations[first:]
            self.count = count
            return self.between(branch, skip.value.domain if join.binary else REAL, z=skip.value, join=join)

    def opens(self, module: nn.Module) -> bool:
        """Return whether what ``module`` does is written down, in place of a call of it."""
        return _is_ours(module) and is_untouched(module)

    def in_turn(self, segments: Sequence[Callable[[Any], Any]], x: Any) -> Any:
        """Write all of them down, and where each begins and ends."""
        ranges = []
        for segment in segments:
            first = len(self.operations)
            x = segment(x)
            ranges.append(range(first, len(self.operations)))
        self.segments.append(tuple(ranges))
        return x

    def run(self, module: nn.Module, x: Any) -> Any:
        """Write down what the forward of ``module`` does, or a call where a hook or its class may do otherwise."""
        if _is_known(module, Weigh) or (_is_known(module, Scale) and module.factor != 1):
            return self.between(x, REAL, x_affine=module)
        if self.opens(module):
            return module.forward(x, self)
        return self._call(module, x, self._inside(module, x), timed=True)

    def through(self, layer: nn.Module, x: Any) -> Any:
        """Write a layer down: as what it is known to do, or as a call where its class or a hook may do otherwise."""
        if is_norm(layer):
            return self.between(x, REAL, x_affine=layer)
        if is_known_neuron(layer):
            return self.between(x, Domain(layer.levels, layer.signed), neuron=layer)  # type: ignore[arg-type]
        conv: Any = layer.conv if _is_known(layer, SlotConv) else layer
        if is_plain_conv(conv) and is_untouched(conv) and geometry_of(conv) is not None:
            out = self.value(conv.out_channels, REAL)
            self.operations.append(Conv(x.value, out, layer))  # type: ignore[arg-type]
            return Symbol(self, out)
        return self._call(layer, x, None, timed=False)

    def _inside(self, module: nn.Module, x: Any) -> Value | None:
        """Find the channels and the domain of what a module puts out, by recording its forward apart.

        A module whose forward has segments is called as one of them.
        """
        if not _is_ours(module):
            return None
        inside = Recorder()
        symbols = [Symbol(inside, symbol.value) for symbol in _listed(x)]
        out: Any = module.forward(symbols if _is_several(x) else symbols[0], inside)
        if inside.segments:
            self.segments.append((range(len(self.operations), len(self.operations) + 1),))
        return out.value

    def _call(self, module: nn.Module, x: Any, like: Value | None, *, timed: bool) -> Symbol:
        *_, last = values = tuple(symbol.value for symbol in _listed(x))
        if like is None:
            like = Value(0, out_channels(module, last.channels), _domain(module, last.domain))
        out = self.value(like.channels, like.domain)
        self.operations.append(Call(last, out, module, timed, values if _is_several(x) else None))
        return Symbol(self, out)


class Outline(Recorder):
    """A recording that is read and never run, so hooks change nothing in it."""

    def opens(self, module: nn.Module) -> bool:
        """Return whether the forward of ``module`` is known, with a hook on it or not."""
        return _is_ours(module)


def record(
    forward: Callable[[Any, Steps], Sequence[Any]], in_channels: int, recording: type[Recorder] = Recorder
) -> Program:
    """Record the program of a function from a map and steps to maps.

    Args:
        forward: The function.
        in_channels: Channels of the map.
        recording: ``Recorder``, or ``Outline`` for what is never run.

    Raises:
        Unrecordable: it does something else to a map than arithmetic and calls through ``Steps``.
    """
    recorder = recording()
    image = recorder.value(in_channels, REAL)
    try:
        results = forward(Symbol(recorder, image), recorder)
        values = tuple(result.value for result in results)
    except (TypeError, AttributeError) as error:
        raise Unrecordable(
            f"this network cannot be written down as a program: {error}; what its modules do to a map must be made of "
            "+, *, 1 - x, steps.through and steps.run"
        ) from error
    return Program(tuple(recorder.operations), image, values, tuple(recorder.segments))


def record_network(network: Network, recording: type[Recorder] = Recorder) -> Program:
    """Record the program from images to logits; arguments as of ``record``.

    Raises:
        Unrecordable: what a module does to a map is no arithmetic that a program knows.
    """
    return record(lambda x, steps: [network.run(x, steps)], network.in_channels, recording)


def is_untouched(*modules: nn.Module) -> bool:
    """Return whether no hook sees what these modules do, and no ``module.compile()`` asked for a compiler."""
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        return False
    return not any(map(_is_touched, modules))


def _is_touched(m: nn.Module) -> bool:
    hooks = m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
    return bool(hooks) or m._compiled_call_impl is not None


def is_norm(layer: nn.Module) -> bool:
    """Return whether it is one of our batch norms, or one for every step, and does nothing else."""
    norms = [layer, *layer.children()] if isinstance(layer, PerStepNorm) else [layer]
    return all(_is_known(norm, BatchNorm) or _is_known(norm, PerStepNorm) for norm in norms)


def is_known_neuron(layer: nn.Module) -> bool:
    """Return whether it is a row of the recurrence, or the rectifier, and does nothing else."""
    return (is_recurrence(layer) or is_exactly(layer, ReLU)) and is_untouched(layer)


def _is_several(x: Any) -> bool:
    return isinstance(x, list | tuple)


def _listed(x: Any) -> Sequence[Symbol]:
    return x if _is_several(x) else [x]


def _is_known(layer: nn.Module, kind: type[nn.Module]) -> bool:
    return is_exactly(layer, kind) and is_untouched(layer)


def _is_ours(module: nn.Module) -> bool:
    """Return whether its forward is one of this package, made of what a program knows."""
    own = "forward" in vars(module) or not type(module).forward.__module__.startswith("isospike.")
    return not own and not getattr(module, "is_leaf", False)


def out_channels(module: nn.Module, channels: int) -> int:
    """Channels that a layer puts out of a map of so many."""
    inner = module.conv if isinstance(module, SlotConv) else module
    return next((getattr(inner, name) for name in ("out_channels", "out_features") if hasattr(inner, name)), channels)


def _domain(module: nn.Module, read: Domain) -> Domain:
    if isinstance(module, Neuron):
        return Domain(module.levels, module.signed)
    return read if is_exactly(module, nn.MaxPool2d) or is_exactly(module, PaddedShortcut) else REAL
