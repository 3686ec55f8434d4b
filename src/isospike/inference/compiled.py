"""Compile a trained network for inference."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from isospike import graph
from isospike.errors import ConfigError, ShapeError
from isospike.graph import (
    INFERENCE,
    Between,
    Call,
    Conv,
    Network,
    Operation,
    Value,
    accumulate,
    record_network,
    rewrite,
    timed_values,
    uses,
    writes,
)
from isospike.inference.convolution import (
    Convolve,
    dense_convolution,
    float_convolution,
    has_order,
    has_packed,
    has_spikes,
    integer_convolution,
    integer_maps,
    integer_spike_convolution,
    packed_convolution,
    spike_convolution,
)
from isospike.inference.frozen import frozen
from isospike.inference.layers import Bound, Maps, Run, States, between, is_pass
from isospike.inference.pieces import CACHE, FEWEST
from isospike.inference.replay import LARGEST, MAPS, Replay, Replays
from isospike.layers import Steps
from isospike.neurons import Neuron
from isospike.ops.backend import pick
from isospike.ops.pointwise import Span
from isospike.ops.rule import FireRule
from isospike.residual import BINARY, Join

Precision = Literal["float32", "int8"]
FLOAT = 4  # bytes


class CompiledNet(nn.Module):
    """A network compiled for inference; it takes and returns what the model does in eval.

    It holds copies: training the model further does not change it, and it stays on the device it was compiled for.

    Args:
        model: A trained network.
        precision: "float32" (the model's own dtype) or "int8".

    Raises:
        ConfigError: there is no such precision, or no int8 for this model on this machine.
    """

    def __init__(self, model: Network, precision: Precision = "float32") -> None:
        super().__init__()
        weight = next(model.parameters())
        _check_precision(precision, weight)
        self.precision: Precision = precision
        self.dtype, self.device = weight.dtype, weight.device
        model = frozen(model)
        with torch.no_grad():
            program = record_network(model)
            _check_joins(program)
            self._input, (self._result,) = program.input, program.results
            self._operations = _bind(rewrite(program.operations, program.results, INFERENCE), self._result, self)
        first = program.operations[0]
        stride = first.layer.stride if isinstance(first, Conv) else (1,)
        self._bytes_per_pixel = FLOAT * first.out.channels / math.prod(stride)
        self._model = [model.to("meta")]  # in a list: it knows shapes, and its weights are none
        self._replays = Replays()

    def forward(self, x: Tensor, *, T: int | None = None, per_step: bool = False) -> Tensor:
        """Compute logits ``[B, num_classes]``, or of every step ``[T, B, num_classes]``.

        Raises:
            ShapeError: the input does not fit; the text says what would.
            ConfigError: it wants a gradient, or a dispatch mode such as ``FlopCounterMode`` wants to see what is done.
        """
        x, T = self.check(x, T)
        with torch.inference_mode():
            if not x.shape[1]:  # of one sample, the shape of whose logits is kept
                logits = self._logits(x.new_zeros(len(x), 1, *x.shape[2:]), T)[:, :0]
            else:
                logits = torch.cat([self._logits(part, T) for part in x.split(self._samples(x, T), 1)], 1)
        return logits.clone() if per_step else logits.mean(0)

    def check(self, x: Tensor, T: int | None = None) -> tuple[Tensor, int]:
        """Return ``x`` as ``[T or 1, B, C, H, W]``, and the number of steps."""
        if x.dtype != self.dtype or x.device.type != self.device.type:
            raise ShapeError(
                f"the network was compiled for {self.dtype} on {self.device.type}, and the input is {x.dtype} on "
                f"{x.device.type}: move the input, or the model and compile it again"
            )
        if x.requires_grad and torch.is_grad_enabled():
            raise ConfigError(
                "a compiled network has no gradient, and this input asks for one: detach it, or ask the model itself"
            )
        if is_in_torch_dispatch_mode():
            raise ConfigError(
                "a compiled network works on memory that PyTorch does not see, so FlopCounterMode and other dispatch "
                "modes would miss what it does: ask the model itself"
            )
        return self._model[0].as_sequence(x, T)

    def begin(self, x: Tensor) -> Maps:
        """Compute the maps that are the same at all steps, from inputs ``[B, C, H, W]``."""
        maps = {self._input: x.contiguous(memory_format=torch.channels_last)}
        return self._run(maps, Span(1, len(x)), {}, in_time=False)

    def step(self, maps: Maps, states: States, start: int, B: int) -> Tensor:
        """Compute the logits ``[B, num_classes]`` of time step ``start``; ``states`` are read and replaced."""
        return self.steps(maps, states, range(start, start + 1), B)[0]

    def steps(self, maps: Maps, states: States, steps: range, B: int) -> Tensor:
        """Compute the logits ``[T, B, num_classes]`` of some time steps, one behind the other, as ``step`` does."""
        span = Span(len(steps), B, steps.start, stateful=True)
        logits = self._replayed(maps, span, states)
        if logits is None:
            logits = self._run(dict(maps), span, states, in_time=True)[self._result]
        logits = logits.unflatten(0, (-1, B))
        return logits.expand(span.T, *logits.shape[1:])

    def _logits(self, x: Tensor, T: int) -> Tensor:
        """Compute all steps of ``[T or 1, B, C, H, W]`` at once, from the third time on as a replay."""
        span = Span(T, x.shape[1])
        maps = {self._input: x.flatten(0, 1).contiguous(memory_format=torch.channels_last)}
        logits = self._replayed(maps, span, {})
        if logits is None:
            for in_time in (False, True):
                maps = self._run(maps, span, {}, in_time=in_time)
            logits = maps[self._result]
        logits = logits.unflatten(0, (-1, span.B))
        return logits.expand(T, *logits.shape[1:])

    def _replayed(self, maps: Maps, span: Span, states: States) -> Tensor | None:
        """Compute the logits by a replay; None where there is none, or another thread has it.

        The first step of a stream, which has no states, is none.
        """
        large = any(MAPS * span.B * self._bytes(x, span.T) > LARGEST for x in maps.values() if x.dim() == 4)
        if self.device.type != "cpu" or large or (span.stateful and not states):
            return None
        given = (span.T, span.B, *((value, x.shape, x.stride()) for value, x in maps.items()), *states)
        key = given, torch.get_num_threads(), torch.is_autocast_enabled("cpu")
        operations = [one for one in self._operations if one.in_time or not span.stateful]
        replay = self._replays.find(key, lambda: Replay(operations, maps, self._result, span, states))
        return None if replay is None else replay.run(maps, span, states)

    def _run(self, maps: Maps, span: Span, states: States, *, in_time: bool) -> Maps:
        for operation in self._operations:
            if operation.in_time is in_time:
                operation.run(maps, span, states)
                for value in operation.done:
                    del maps[value]
        return maps

    def _samples(self, x: Tensor, T: int) -> int:
        """Count the samples that go through together: those of which the cache holds a map, if worth it."""
        fit = int(CACHE / self._bytes(x, T))
        return fit if fit >= FEWEST and self.device.type == "cpu" else x.shape[1]

    def _bytes(self, x: Tensor, T: int) -> float:
        """Count the bytes of the first map of a sample at all steps."""
        return T * x.shape[-1] * x.shape[-2] * self._bytes_per_pixel


def _check_precision(precision: str, weight: Tensor) -> None:
    if precision not in get_args(Precision):
        raise ConfigError(f"precision must be one of {', '.join(get_args(Precision))}, got '{precision}'")
    if precision == "int8" and (weight.dtype != torch.float32 or weight.device.type != "cpu"):
        raise ConfigError(
            f"precision 'int8' is for float32 models on the CPU, this one is {weight.dtype} on {weight.device.type}"
        )
    if precision == "int8" and not (
        torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qconv_prepack")
    ):
        raise ConfigError("precision 'int8' needs a PyTorch with oneDNN, which this one lacks: use 'float32'")


def _check_joins(program: graph.Program) -> None:
    for op in program.operations:
        if isinstance(op, Between) and isinstance(op.join, Join):
            raise ConfigError(
                f"join '{op.join.name}' is not made of +, * and 1 - x, so it cannot be compiled: let the model itself "
                "predict"
            )


class Forms(NamedTuple):
    """Say how maps are kept that are not floats.

    Attributes:
        integers: The maps of uint8, and those of bits.
        bits: The maps of spikes that the pass which fires them writes as bits.
        adds: The convolutions that add up what fired.
    """

    integers: set[Value]
    bits: set[Value]
    adds: set[Operation]


def _bind(program: Sequence[Operation], result: Value, net: CompiledNet) -> list[Bound]:
    """Make functions of the operations, in their order, those before time first."""
    time = timed_values(program)
    program = sorted(program, key=lambda op: op.out in time)
    compiled = pick(torch.empty(1, 1, dtype=net.dtype, device=net.device), None, FireRule()).name == "cpu"
    quantises = net.precision == "int8"
    integers = integer_maps(program) if quantises else set()
    floats = time - integers
    program = accumulate(program, [result], floats, lambda op: op.x not in integers or (compiled and has_spikes(op)))
    left = uses(program, [result])
    forms = _forms(program, result, integers, compiled, quantises)
    like = torch.empty(0, dtype=net.dtype, device=net.device)
    bound = []
    for op in program:
        if isinstance(op, Conv):
            run = _conv(op, forms, net.precision, compiled)
        elif isinstance(op, Between):
            integer, bits = op.out in forms.integers, op.out in forms.bits
            run = between(op, like, compiled=compiled, state=op.out, integer=integer, bits=bits)
        else:
            run = _call(op, net.dtype, op.out in forms.integers)
        left.subtract(op.reads())
        unread = {value for value in (*op.reads(), *writes(op)) if not left[value]}
        bound.append(Bound(run, tuple(unread), op.out in time, compiled and _is_by_library(op, forms)))
    return bound


def _is_by_library(op: Operation, forms: Forms) -> bool:
    """Return whether the compiled library, where it is there, does all of an operation."""
    if isinstance(op, Conv):
        return op in forms.adds or (op.x not in forms.integers and has_order(op))
    return is_pass(op)


def _forms(program: Sequence[Operation], result: Value, integers: set[Value], compiled: bool, quantises: bool) -> Forms:
    """Decide which convolutions add up what fired, and how maps are kept for them.

    In floats, they read maps of 0 and 1 that no other convolution reads; nor is one added onto them. Spikes go as bits
    from the pass that fires them where none but such passes and such convolutions read them.
    """
    convs = [op for op in program if isinstance(op, Conv)]
    adds = {op for op in convs if compiled and has_spikes(op)}
    passes = [op for op in program if is_pass(op)]
    made = {op.out for op in passes if op.out.domain == BINARY}
    others = {op.x for op in convs if op not in adds} | {op.onto for op in convs}
    spikes = made & {op.x for op in adds} - others
    if not quantises:
        integers, adds = spikes, {op for op in adds if op.x in spikes}
    elsewhere = {value for op in program if op not in adds and op not in passes for value in op.reads()}
    return Forms(integers, spikes - elsewhere - {result}, {op for op in adds if op.x in integers})


def _dense_convolution(op: Conv, compiled: bool) -> Convolve:
    if compiled and has_order(op):
        return dense_convolution(op)
    return packed_convolution(op) if has_packed(op.layer.weight) else float_convolution(op)


def _convolution(op: Conv, forms: Forms, precision: Precision, compiled: bool) -> Convolve:
    if op in forms.adds:
        return spike_convolution(op) if precision == "float32" else integer_spike_convolution(op)
    return integer_convolution(op) if op.x in forms.integers else _dense_convolution(op, compiled)


def _conv(op: Conv, forms: Forms, precision: Precision, compiled: bool) -> Run:
    convolve = _convolution(op, forms, precision, compiled)
    x, out, onto = op.x, op.out, op.onto

    def run(maps: Maps, span: Span, states: States) -> None:
        maps[out] = convolve(maps[x], None if onto is None else maps[onto])

    return run


def _call(op: Call, dtype: torch.dtype, integer: bool) -> Run:
    """Run a module of the network as it is, in its dtype; PyTorch pools no large maps of uint8."""
    module = frozen(op.module)
    called = replace(op, module=module)
    neurons = [m for m in module.modules() if isinstance(m, Neuron)]

    def run(maps: Maps, span: Span, states: States) -> None:
        inputs = {value: maps[value].to(dtype).unflatten(0, (-1, span.B)) for value in op.reads()}
        v = {neuron: states[neuron] for neuron in neurons if neuron in states}
        steps = Steps(span.T, v if span.stateful else None, span.start)
        out = called.run(inputs, steps).flatten(0, 1)
        maps[op.out] = out.to(torch.uint8) if integer else out
        states.update({neuron: after for neuron, after in (steps.v or {}).items()})

    return run
