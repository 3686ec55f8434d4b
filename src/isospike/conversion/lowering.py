"""From the program of an ANN to one whose maps are measured in thresholds: the same network in other units.

Every map of the ANN is its unit times the map of the new program. A rectifier's output has the threshold of its layer
as its unit; the current that it reads is brought to the same unit, in every branch of a sum, so that the threshold of
the new neurons is 1. What that takes goes into weights and biases; norms behind convolutions go there first.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from isospike.conversion.activations import Levels, rectifier_of
from isospike.errors import ConfigError
from isospike.graph import Affine, Between, Call, Conv, Operation, Program, Value, uses
from isospike.graph.recorder import is_known_neuron
from isospike.inference.numbers import numbers_of
from isospike.layers import BatchNorm, Conv2d, GlobalPool, PaddedShortcut, SpikingMaxPool, is_exactly
from isospike.models import ProgramNet
from isospike.models.head import SampleDropout
from isospike.neurons import Neuron
from isospike.residual import REAL, Domain

ONE = torch.ones(1, dtype=torch.float64)
POOLS = (nn.AvgPool2d, GlobalPool)
MOVES = (nn.Flatten, nn.Identity, PaddedShortcut)  # they leave units as they are
NOTHING = (nn.Dropout, SampleDropout)  # in eval mode
MakeNeuron = Callable[[], Neuron]


@dataclass(frozen=True)
class Plan:
    """What an ANN is lowered to.

    Args:
        thresholds: Of every rectifier, by its output.
        neuron: Makes what stands in place of a rectifier; its threshold is 1.
        shifts: What is added to the current of a rectifier, in the ANN's units, by its output; ``[C]``.
        logits: The unit of the logits, ``[1]``.
        readout: Makes what stands behind the logits; None: nothing.
        pooled: Whether neurons stand behind average pools too.
        scales_shortcuts: Whether a shortcut without weights is brought to the unit of the sum, as it must be; without
            it, it is what conversion was before it knew of shortcuts.
        gain: A factor on all weights and shortcuts, and on no bias.
    """

    thresholds: Levels
    neuron: MakeNeuron
    shifts: Mapping[Value, Tensor] = field(default_factory=dict)
    logits: Tensor = ONE
    readout: MakeNeuron | None = None
    pooled: bool = False
    scales_shortcuts: bool = True
    gain: float = 1.0


def on_cpu(plan: Plan) -> Plan:
    """Return the plan with its numbers on the CPU, where weights are worked out, whatever the ANN ran on."""
    thresholds, shifts = ({value: t.cpu() for value, t in rows.items()} for rows in (plan.thresholds, plan.shifts))
    return replace(plan, thresholds=thresholds, shifts=shifts, logits=plan.logits.cpu())


@torch.no_grad()
def lower(ann: ProgramNet, plan: Plan, T: int) -> ProgramNet:
    """Make the network that ``plan`` says of an ANN; the ANN stays as it is.

    Args:
        ann: In eval mode.
        plan: What it is lowered to.
        T: Time steps of the new network, where a call asks for no others.

    Raises:
        ConfigError: the program does something that has no meaning for firing rates; says what and where.
    """
    lowering = _Lowering(ann, plan)
    for op in ann.program.operations:
        lowering.take(op)
    program = lowering.program()
    net = ProgramNet(program, lowering.modules, T=T, least_size=ann.least_size, units=lowering.units)
    weight = next(ann.parameters())
    net.inputs = ann.inputs
    return net.to(weight.device, weight.dtype).eval()


class _Lowering:
    """A new program in the making; maps of the ANN have a new map and a unit."""

    def __init__(self, ann: ProgramNet, plan: Plan) -> None:
        self.plan = on_cpu(plan)
        self.names = {module: name for name, module in ann.named_modules()}
        self.old = ann.program
        self.count = uses(self.old.operations, self.old.results)
        self.writers = {op.out: op for op in self.old.operations}
        self.operations: list[Operation] = []
        self.modules: dict[str, nn.Module] = {}
        self.units: dict[str, list[float]] = {}  # of what stands in place of rectifiers
        self.values = 0
        self.made: dict[Value, tuple[Value, Tensor]] = {}
        self.rates: set[Value] = set()  # new maps that neurons put out, and pools of them
        self.folded: dict[Value, tuple[BatchNorm, Value]] = {}  # by what a convolution puts out: its norm, and that's
        self.wanted: dict[Value, Tensor] = {}
        self.shifts: dict[Value, Tensor] = {}
        self._plan_backwards()
        self.made[self.old.input] = self._value(self.old.input.channels, REAL), ONE

    def program(self) -> Program:
        """Return all that was taken, from images to logits."""
        (result,) = self.old.results
        value, unit = self.made[result]
        value, factor = self._scaled(value, unit / self.plan.logits)
        if factor is not None:
            value, before = self._value(value.channels, REAL), value
            self.operations.append(Between(before, value, x_affine=factor))
        if self.plan.readout is not None:
            value = self._call(value, self.plan.readout(), "readout", value.channels, REAL)
        return Program(tuple(self.operations), self.made[self.old.input][0], (value,))

    def take(self, op: Operation) -> None:
        """Lower one operation."""
        if op.out in self.made:
            return  # a norm that went into the convolution before it
        if isinstance(op, Conv):
            self.made[op.out] = self._conv(op)
        elif rectifier_of(op) is not None:
            self.made[op.out] = self._fire(op)
        elif isinstance(op, Between):
            self.made[op.out] = self._between(op)
        else:
            self.made[op.out] = self._layer(op)

    def _plan_backwards(self) -> None:
        """Choose the unit that each current shall have, and where a shift can become a bias."""
        self.wanted[self.old.results[0]] = self.plan.logits
        for op in reversed(self.old.operations):
            threshold = self.plan.thresholds.get(op.out)
            unit = self.wanted.get(op.out) if threshold is None else threshold
            shift = self.plan.shifts.get(op.out) if threshold is not None else self.shifts.get(op.out)
            if isinstance(op, Between) and op.is_affine and isinstance(op.x_affine, BatchNorm):
                if isinstance(self.writers.get(op.x), Conv) and self.count[op.x] == 1:
                    self.folded[op.x] = op.x_affine, op.out
                continue
            if not isinstance(op, Between) and threshold is None:
                continue
            terms = [value for value in op.reads() if self.count[value] == 1]
            if shift is not None and isinstance(op, Between) and isinstance(op.x_affine, float):
                shift = shift / op.x_affine
            if unit is not None:
                self.wanted.update((value, unit) for value in terms)
            if shift is not None:
                self.shifts[self._shifted(terms, op)] = shift

    def _shifted(self, terms: list[Value], op: Operation) -> Value:
        """Return the term whose bias takes up a shift."""
        for value in terms:
            writer = self.writers.get(value)
            if isinstance(writer, Conv) or (isinstance(writer, Call) and isinstance(writer.module, nn.Linear)):
                return value
            if isinstance(writer, Between) and rectifier_of(writer) is None:
                return value
        raise ConfigError(
            f"the current of {self._name(op)} comes from no convolution, norm or linear layer, so there is no bias to "
            "calibrate: use a method without calibration"
        )

    def _conv(self, op: Conv) -> tuple[Value, Tensor]:
        layer = op.layer
        norm, out = self.folded.get(op.out, (None, op.out))
        unit = self.wanted.get(out, ONE)
        x, read = self.made[op.x]
        weight, bias = _weights(layer)
        if norm is not None:
            scale, shift = _numbers(norm)
            weight, bias = weight * scale.view(-1, 1, 1, 1), bias * scale + shift
        bias = bias + self.shifts.get(out, 0.0)
        groups = layer.groups
        inputs = _rows(read, layer.in_channels).view(groups, 1, -1).expand(groups, layer.out_channels // groups, -1)
        weight = weight * inputs.flatten(0, 1)[:, :, None, None] / unit.view(-1, 1, 1, 1)
        made = _new_conv(layer, weight * self.plan.gain, bias / unit)
        value = self._value(op.out.channels, REAL)
        self._add(Conv(x, value, made), made, self.names[op.module])
        self.made[out] = value, unit
        return value, unit

    def _between(self, op: Between) -> tuple[Value, Tensor]:
        """Lower a sum, a norm that stands alone, or a factor."""
        if op.z is not None or op.total is not None or op.affine is not None:
            raise ConfigError(f"{self._name(op)} multiplies two maps, and firing rates have no product: take sums")
        if op.y is None:
            return self._affine(op)
        unit = self.wanted.get(op.out, ONE)
        terms = [self._term(value, affine, unit) for value, affine in ((op.x, op.x_affine), (op.y, op.y_affine))]
        (x, x_factor), (y, y_factor) = terms
        out = self._value(op.out.channels, REAL)
        self.operations.append(Between(x, out, y, x_affine=x_factor, y_affine=y_factor))
        return out, unit

    def _term(self, value: Value, affine: Affine | None, unit: Tensor) -> tuple[Value, float | None]:
        """Lower a term of a sum to ``unit``, by a number or by a convolution where channels differ."""
        if affine is not None:
            raise ConfigError(f"map {value.number} enters a sum through an affine: write it as an operation before it")
        x, read = self.made[value]
        is_shortcut = x in self.rates
        ratio = (read / unit) * (self.plan.gain if is_shortcut else 1.0)
        if is_shortcut and not self.plan.scales_shortcuts:
            ratio = ONE * self.plan.gain
        return self._scaled(x, ratio)

    def _scaled(self, x: Value, ratio: Tensor) -> tuple[Value, float | None]:
        if (ratio == ratio[0]).all():
            return x, None if ratio[0] == 1 else ratio[0].item()
        conv = Conv2d(x.channels, x.channels, 1, groups=x.channels, bias=False, dtype=torch.float64)
        conv.weight.copy_(ratio.view(-1, 1, 1, 1))
        out = self._value(x.channels, REAL)
        self._add(Conv(x, out, conv), conv, "scale")
        return out, None

    def _affine(self, op: Between) -> tuple[Value, Tensor]:
        x, read = self.made[op.x]
        if isinstance(op.x_affine, float) and op.x_affine > 0:
            return x, read * op.x_affine
        if not isinstance(op.x_affine, BatchNorm) or not is_exactly(op.x_affine, BatchNorm):
            raise ConfigError(f"{self._name(op)} has no meaning for firing rates: take sums, norms and factors above 0")
        scale, shift = _numbers(op.x_affine)
        unit = self.wanted.get(op.out, ONE)
        conv = Conv2d(x.channels, x.channels, 1, groups=x.channels, dtype=torch.float64)
        conv.weight.copy_((scale * read / unit).view(-1, 1, 1, 1))
        assert conv.bias is not None
        conv.bias.copy_((shift + self.shifts.get(op.out, 0.0)) / unit)
        out = self._value(x.channels, REAL)
        self._add(Conv(x, out, conv), conv, self.names[op.x_affine])
        return out, unit

    def _fire(self, op: Operation) -> tuple[Value, Tensor]:
        """Put neurons in place of a rectifier, and of the sum before it where both are one operation."""
        threshold = self.plan.thresholds[op.out]
        x, read = self.made[op.x]
        if isinstance(op, Between) and (op.y is not None or op.x_affine or op.affine or op.z is not None):
            raise ConfigError(
                f"{self._name(op)} is more than a rectifier: write what it does as operations of their own"
            )
        x, factor = self._scaled(x, read / threshold)
        rectifier = rectifier_of(op)
        assert rectifier is not None
        out, name = self._neurons(x, factor, self.names[rectifier])
        self.units[name] = threshold.tolist()
        return out, threshold

    def _neurons(self, x: Value, factor: float | None, name: str) -> tuple[Value, str]:
        neuron = self.plan.neuron()
        if not is_known_neuron(neuron) and factor is not None:
            x, before = self._value(x.channels, REAL), x
            self.operations.append(Between(before, x, x_affine=factor))
        out = self._value(x.channels, Domain(neuron.levels, neuron.signed))
        self.rates.add(out)
        op = Between(x, out, x_affine=factor, neuron=neuron) if is_known_neuron(neuron) else Call(x, out, neuron)
        return out, self._add(op, neuron, name)

    def _layer(self, op: Call) -> tuple[Value, Tensor]:
        module, name = op.module, self.names[op.module]
        x, unit = self.made[op.x]
        if isinstance(module, nn.Linear):
            return self._linear(op, module)
        if isinstance(module, NOTHING):
            return x, unit
        if isinstance(module, nn.MaxPool2d) and x in self.rates:
            module = _max_pool_of_rates(module, x.domain)
        if not isinstance(module, (*POOLS, *MOVES, nn.MaxPool2d, SpikingMaxPool)):
            raise ConfigError(f"{name}, a {type(module).__name__}, has no meaning for firing rates")
        if isinstance(module, PaddedShortcut) and len(unit) > 1:
            unit = nn.functional.pad(unit, (module.before, module.behind), value=1.0)
        averages = isinstance(module, POOLS)
        out = self._call(x, module, name, op.out.channels, REAL if averages else x.domain)
        if x in self.rates:
            if averages and self.plan.pooled:
                return self._neurons(out, None, f"{name}_spike")[0], unit
            self.rates.add(out)
        return out, unit

    def _linear(self, op: Call, layer: nn.Linear) -> tuple[Value, Tensor]:
        x, read = self.made[op.x]
        unit = self.wanted.get(op.out, ONE)
        weight, bias = _weights(layer)
        bias = (bias + self.shifts.get(op.out, 0.0)) / unit
        made = nn.Linear(layer.in_features, layer.out_features, bool(bias.any()), dtype=torch.float64)
        made.weight.copy_(weight * _rows(read, layer.in_features) / unit.view(-1, 1) * self.plan.gain)
        if made.bias is not None:
            made.bias.copy_(bias)
        return self._call(x, made, self.names[layer], layer.out_features, REAL), unit

    def _call(self, x: Value, module: nn.Module, name: str, channels: int, domain: Domain) -> Value:
        out = self._value(channels, domain)
        self._add(Call(x, out, module), module, name)
        return out

    def _value(self, channels: int, domain: Domain) -> Value:
        self.values += 1
        return Value(self.values - 1, channels, domain)

    def _add(self, op: Operation, module: nn.Module, name: str) -> str:
        """Add an operation with a module under a name of its own: a rectifier may stand in many places."""
        self.operations.append(op)
        names = (name, *(f"{name}_{n}" for n in range(2, len(self.modules) + 3)))
        own = next(free for free in names if free not in self.modules)
        self.modules[own] = module
        return own

    def _name(self, op: Operation) -> str:
        parts = [op.x_affine, op.neuron] if isinstance(op, Between) else [op.module]
        names = [self.names[part] for part in parts if isinstance(part, nn.Module)]
        return names[0] if names else f"the operation that writes map {op.out.number}"


def _weights(layer: nn.Conv2d | nn.Linear) -> tuple[Tensor, Tensor]:
    """Return weight and bias in float64; where there is no bias, zeros."""
    weight = layer.weight.detach().cpu().double()
    return weight, weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().cpu().double()


def _new_conv(like: nn.Conv2d, weight: Tensor, bias: Tensor) -> Conv2d:
    """Make a convolution of the same geometry, with a bias where there is something to add."""
    names = "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"
    made = Conv2d(**{name: getattr(like, name) for name in names}, bias=bool(bias.any())).double()
    made.weight.copy_(weight)
    if made.bias is not None:
        made.bias.copy_(bias)
    return made


def _max_pool_of_rates(pool: nn.MaxPool2d, read: Domain) -> SpikingMaxPool:
    names = "kernel_size", "stride", "padding", "dilation", "ceil_mode"
    return SpikingMaxPool(**{name: getattr(pool, name) for name in names}, levels=read.largest, signed=read.signed)


def _numbers(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Return the scale and the shift of a trained norm ``[C]``."""
    scale, shift = numbers_of(norm)
    return scale[0].cpu().double(), shift[0].cpu().double()


def _rows(unit: Tensor, features: int) -> Tensor:
    """Return a unit for every input, where each channel may be many features."""
    return unit.double().repeat_interleave(features // len(unit))
