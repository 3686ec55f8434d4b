"""Runs a model's own forward on symbols, and writes down what it does."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from isospike.errors import ConfigError
from isospike.inference.network import Network
from isospike.inference.program import COMPLEMENT, Between, Call, Conv, Operation, Value
from isospike.layers import BatchNorm, PerStepNorm, SlotConv, Steps, is_exactly, is_plain_conv
from isospike.neurons import Neuron, ReLU, is_recurrence
from isospike.ops.conv2d import geometry_of
from isospike.ops.pointwise import Activation, Affine
from isospike.residual import BINARY, REAL, Domain, ResidualUnit


class Symbol:
    """Stands for a map ``[T or 1, B, C, H, W]``: what is done to it is written down.

    It knows the arithmetic of joins and sums.
    """

    def __init__(self, recorder: "Recorder", value: Value) -> None:
        self.recorder, self.value = recorder, value

    def __add__(self, other: "Symbol") -> "Symbol":
        domain = self.value.domain + other.value.domain
        return self.recorder.between(self, domain, y=other.value)

    def __mul__(self, other: "Symbol | float | Tensor") -> "Symbol":
        if not isinstance(other, Symbol):
            return self.recorder.between(self, REAL, x_affine=_scaling(_number(other)))
        integers = self.value.domain == BINARY
        return self.recorder.between(self, other.value.domain if integers else REAL, z=other.value, join="and")

    def __truediv__(self, divisor: float) -> "Symbol":
        return self * (1 / divisor)

    def __rsub__(self, one: float) -> "Symbol":
        if one != 1:
            return NotImplemented
        domain = BINARY if self.value.domain == BINARY else REAL
        return self.recorder.between(self, domain, x_affine=COMPLEMENT)


class Recorder(Steps):
    """The time of a recording: ``through`` writes a layer down instead of running it."""

    def __init__(self) -> None:
        super().__init__(T=1, ahead=None, fuses=False)
        self.program: list[Operation] = []
        self.count = 0

    def input(self, channels: int) -> Symbol:
        """A map that comes from outside."""
        return Symbol(self, self._value(channels, REAL))

    def _value(self, channels: int, domain: Domain) -> Value:
        self.count += 1
        return Value(self.count - 1, channels, domain)

    def between(self, x: Symbol, domain: Domain, **parts: Any) -> Symbol:
        """Write down an operation of ``ops.pointwise``."""
        out = self._value(x.value.channels, domain)
        self.program.append(Between(x.value, out, **parts))
        return Symbol(self, out)

    def through(self, layer: nn.Module, x: Any) -> Any:
        """Write a layer down: as what it is known to do, or as a call where its class or a hook may do otherwise."""
        norms = _norms(layer)
        if norms:
            return self.between(x, REAL, x_affine=_affine(norms))
        firing = _firing(layer)
        if firing is not None:
            return self.between(x, Domain(layer.levels), firing=firing)  # type: ignore[arg-type]
        conv: Any = layer.conv if _is_known(layer, SlotConv) else layer
        if is_plain_conv(conv) and _is_bare(conv) and geometry_of(conv) is not None:
            return self._conv(conv, x, layer.bias)  # type: ignore[arg-type]
        return self._call(layer, x)

    def _conv(self, conv: nn.Conv2d, x: Symbol, bias: Tensor | None) -> Symbol:
        out = self._value(conv.out_channels, REAL)
        self.program.append(Conv(x.value, out, conv, bias))
        return Symbol(self, out)

    def _call(self, layer: nn.Module, x: Symbol) -> Symbol:
        domain = REAL
        if isinstance(layer, Neuron):
            domain = Domain(layer.levels)
        elif is_exactly(layer, nn.MaxPool2d):
            domain = x.value.domain
        channels = layer.conv.out_channels if isinstance(layer, SlotConv) else getattr(layer, "out_channels", None)
        out = self._value(x.value.channels if channels is None else channels, domain)
        self.program.append(Call(x.value, out, layer))
        return Symbol(self, out)


def record(model: Network) -> tuple[list[Operation], Value, Value]:
    """What ``model`` does from its input to its last feature maps: the operations, the input, the result."""
    _check_joins(model)
    recorder = Recorder()
    image: Any = recorder.input(model.in_channels)
    features: Any = model.maps(model.stem(image, recorder), recorder)
    return recorder.program, image.value, features.value


@torch.no_grad()
def _affine(norms: Iterable[BatchNorm]) -> Affine:
    """What trained norms do, one for every row; the square root in float64."""
    rows = []
    for norm in norms:
        scale = norm.weight.double() * norm.scale / norm.running_deviation()
        shift = norm.bias.double() - norm.running_mean.double() * scale
        rows.append((scale.to(norm.weight.dtype), shift.to(norm.weight.dtype)))
    return Affine(*(torch.stack(values) for values in zip(*rows, strict=True)))


def _scaling(factor: float) -> Affine:
    return Affine(torch.tensor([[factor]]), torch.zeros(1, 1))


def _is_known(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether the layer does what this class does: it is of no class of its own, and no hook sees what it does."""
    return is_exactly(layer, kind) and _is_bare(layer)


def _is_bare(layer: nn.Module) -> bool:
    return not layer._forward_hooks and not layer._forward_pre_hooks


def _norms(layer: nn.Module) -> list[BatchNorm]:
    """One, or one for every time step; none where the layer is something else."""
    norms: list[Any] = [*layer.children()] if _is_known(layer, PerStepNorm) else [layer]
    return norms if all(_is_known(norm, BatchNorm) for norm in norms) else []


def _firing(neuron: nn.Module) -> Activation | None:
    """The numbers of a neuron that is a row of the recurrence, or the rectifier; None for any other layer."""
    if _is_known(neuron, ReLU):
        return Activation(None)
    if not is_recurrence(neuron) or not _is_bare(neuron):
        return None
    decay, gain = map(_number, neuron.coefficients())
    return Activation(neuron.rule, decay, gain)


def _number(value: float | Tensor) -> float:
    return float(value.detach() if isinstance(value, Tensor) else value)


def _check_joins(model: nn.Module) -> None:
    for unit in model.modules():
        if isinstance(unit, ResidualUnit) and unit.join is not None:
            branch, skip = (Recorder().input(1) for _ in range(2))
            try:
                unit.join(branch=branch, skip=skip)  # type: ignore[arg-type]
            except (TypeError, AttributeError) as error:
                raise ConfigError(
                    f"join '{unit.join.name}' is not made of +, * and 1 - x, so it cannot be compiled: "
                    "let the model itself predict"
                ) from error
