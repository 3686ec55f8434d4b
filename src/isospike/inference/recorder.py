"""Runs a model's own forward on symbols, and writes down what it does."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from isospike.errors import ConfigError
from isospike.inference.network import Network
from isospike.inference.program import COMPLEMENT, Between, Call, Conv, Operation, Value
from isospike.layers import BatchNorm, PerStepNorm, SlotConv, Steps, is_plain_conv
from isospike.neurons import Neuron, ReLU, SpikingNeuron
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
        """Write a layer down."""
        value: Value = x.value
        if isinstance(layer, BatchNorm):
            return self.between(x, REAL, x_affine=_affine([layer]))
        if isinstance(layer, PerStepNorm):
            return self.between(x, REAL, x_affine=_affine(list(layer)))  # type: ignore[arg-type]
        if isinstance(layer, Neuron):
            domain = Domain(layer.levels)
            firing = _firing(layer)
            if firing is not None:
                return self.between(x, domain, firing=firing)
            return self._call(layer, x, value.channels, domain)
        conv = layer.conv if isinstance(layer, SlotConv) else layer
        if is_plain_conv(conv) and conv.padding_mode == "zeros" and not isinstance(conv.padding, str):
            out = self._value(conv.out_channels, REAL)
            self.program.append(Conv(value, out, conv, layer.bias))  # type: ignore[arg-type]
            return Symbol(self, out)
        if isinstance(layer, nn.MaxPool2d):
            return self._call(layer, x, value.channels, value.domain)
        channels = getattr(layer, "out_channels", value.channels)
        return self._call(layer, x, channels, REAL)

    def _call(self, layer: nn.Module, x: Symbol, channels: int, domain: Domain) -> Symbol:
        out = self._value(channels, domain)
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


def _firing(neuron: Neuron) -> Activation | None:
    """The numbers of a neuron that is a row of the recurrence, or the rectifier; None for any other."""
    if type(neuron) is ReLU:
        return Activation(None)
    if not isinstance(neuron, SpikingNeuron) or type(neuron).forward is not SpikingNeuron.forward:
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
