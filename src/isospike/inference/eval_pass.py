"""A network in eval, without gradients: its program on the weights that it has now, many steps and samples at once.

Every sum has one order, whatever the batch, so a stream, one step at a time, has the bits of the clip. A layer of which
that is not known runs step by step, in its place.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from isospike.graph import (
    INFERENCE,
    Between,
    Call,
    Conv,
    Operation,
    Program,
    Value,
    accumulate,
    rewrite,
    timed_values,
    uses,
    writes,
)
from isospike.inference import calls
from isospike.inference.convolution import has_order, ordered_convolution, reads_bits
from isospike.inference.layers import Maps, Run, States, between, firing, is_pass
from isospike.inference.pieces import pieces_of
from isospike.layers import BatchNorm, Steps
from isospike.neurons import Neuron
from isospike.ops.conv2d import geometry_of
from isospike.ops.cpu.digest import digests
from isospike.ops.cpu.refusals import refused_dtype, refused_place
from isospike.ops.memory import has_memory
from isospike.ops.pointwise import Span
from isospike.residual import BINARY, Join, Scale, Weigh

FLOAT = 4  # bytes


@dataclass
class Layer:
    """An operation bound to the numbers of its modules, and bound again where these have changed.

    Args:
        op: The operation.
        bits: Whether it puts out bits.
        bound: Whether it has a form of its own; otherwise it runs as it is, step by step.
        done: The maps that nothing reads after it.
        in_time: Whether time has begun there.
        read: The maps of those that it writes that anybody reads.
    """

    op: Operation
    bits: bool
    bound: bool
    done: tuple[Value, ...]
    in_time: bool
    read: frozenset[Value]
    now: tuple[Any, Run | None] = field(default=(None, None))  # one tuple, so that no thread sees one without the other

    def __post_init__(self) -> None:
        self.norms = [m for m in _affines(self.op) if isinstance(m, BatchNorm)]
        self.factors = [m for m in _affines(self.op) if isinstance(m, Scale | Weigh)]

    def tensors(self) -> list[Tensor]:
        """Return the weights and statistics that it is bound to."""
        if not self.bound:
            return []
        own: list[Tensor | None] = []
        if isinstance(self.op, Conv):
            own = [self.op.layer.weight, self.op.module.bias]
        elif isinstance(self.op, Call) and isinstance(self.op.module, nn.Linear):
            own = [self.op.module.weight, self.op.module.bias]
        for norm in self.norms:
            own += [norm.weight, norm.bias, norm.running_mean, norm.running_var]
        return [x for x in own if x is not None]

    def numbers(self) -> tuple[Any, ...]:
        """Return the numbers besides these."""
        if not self.bound or isinstance(self.op, Call):
            return ()
        of_norms = [number for norm in self.norms for number in (norm.eps, norm.root_eps, norm.scale)]
        own = geometry_of(self.op.layer) if isinstance(self.op, Conv) else firing(self.op)
        return own, *of_norms, *(float(factor.factor) for factor in self.factors)

    def run(self, key: Any) -> Run:
        """Return the operation as a function on maps, bound to the numbers that ``key`` tells from others."""
        before, run = self.now
        if run is None or key != before:
            run = self._bind()
            self.now = key, run
        return run

    def _bind(self) -> Run:
        op = self.op
        if not self.bound:
            return calls.step_by_step(op, self.read, self.in_time)
        if isinstance(op, Call):
            return calls.ordered(op)
        if isinstance(op, Between):
            return between(op, torch.empty(0), compiled=True, state=op.neuron, bits=self.bits)
        convolve, x, out, onto = ordered_convolution(op), op.x, op.out, op.onto

        def run(maps: Maps, span: Span, states: States) -> None:
            maps[out] = convolve(maps[x], None if onto is None else maps[onto])

        return run


Bound = Sequence[tuple[Layer, Run]]
Ready = Callable[[Tensor, Steps], list[Tensor]]
"""From inputs ``[T or 1, B, C, H, W]``, and the time that they cover, to the results ``[T, B, ...]``."""


class Refusal(NamedTuple):
    """Why a program cannot run, as the end of a sentence."""

    reason: str


class EvalPass:
    """A program that runs in eval, on float32 in the memory of the CPU.

    Args:
        program: Of a network in eval.
    """

    def __init__(self, program: Program) -> None:
        operations: Sequence[Operation] = rewrite(program.operations, program.results, INFERENCE)
        time = timed_values(operations)
        operations = sorted(operations, key=lambda op: op.out in time)
        operations = accumulate(operations, program.results, time, has_order)
        self._input, self._results = program.input, program.results
        self._layers = list(_layers(operations, program.results, time))
        self._divisible = all(layer.bound for layer in self._layers)
        self._bytes_of_pixel = _bytes_of_pixel(operations)
        modules = [module for op in operations for module in _modules(op)]
        self._norms = [m for m in modules if isinstance(m, BatchNorm)]
        self._refusal = _refused(program.operations, modules)

    def ready(self, x: Tensor) -> "Ready | Refusal":
        """Bind every layer to the numbers of now, for inputs ``x [T or 1, B, C, H, W]``."""
        tensors = [layer.tensors() for layer in self._layers]
        reason = self._refusal or self._refused_now(x, tensors)
        if reason is not None:
            return Refusal(reason)
        found = iter(digests([held for of_layer in tensors for held in of_layer]))
        bound = []
        for layer, of_layer in zip(self._layers, tensors, strict=True):
            held = [(next(found), tensor.shape, tensor.stride()) for tensor in of_layer]
            bound.append((layer, layer.run((held, layer.numbers()))))
        return partial(self._run, bound)

    def _refused_now(self, x: Tensor, tensors: Sequence[Sequence[Tensor]]) -> str | None:
        """Why it cannot run as things are."""
        if any(norm.training for norm in self._norms):
            return "a norm takes the statistics of its batch"
        if not x.numel():
            return "there is no sample"
        for layer, of_layer in zip(self._layers, tensors, strict=True):
            if isinstance(layer.op, Conv) and layer.bound and of_layer[0].shape != _shape(layer.op.layer):
                return "a weight has another shape than its layer says"
        if not all(_is_plain(held) for of_layer in tensors for held in of_layer):
            return "a weight is no plain float32 tensor in the memory of the CPU"
        return refused_place(x) or refused_dtype(x.dtype)

    def _run(self, bound: Bound, x: Tensor, steps: Steps) -> list[Tensor]:
        """Compute the results ``[T, B, ...]``."""
        size = int(self._bytes_of_pixel * x.shape[-1] * x.shape[-2])
        pieces = pieces_of(x.shape[1], steps.T, size, divisible=self._divisible and steps.v is None)
        parts = [self._samples(bound, part, steps, pieces.steps) for part in x.split(pieces.samples, 1)]
        return _joined(parts, 1)

    def _samples(self, bound: Bound, x: Tensor, steps: Steps, at_once: int) -> list[Tensor]:
        """Compute all steps of some samples, so many at a time."""
        B, static = x.shape[1], len(x) < steps.T
        states: States = {} if steps.v is None else steps.v
        still = self._still(bound, x, Span(1, B, steps.start)) if static else {}
        parts = []
        for first in range(0, steps.T, at_once):
            T = min(at_once, steps.T - first)
            span = Span(T, B, steps.start + first, stateful=steps.v is not None or T < steps.T)
            maps = dict(still) if static else self._still(bound, x[first : first + T], span)
            _execute(bound, maps, span, states, in_time=True)
            results = (maps[value].unflatten(0, (-1, B)) for value in self._results)
            parts.append([result.expand(T, *result.shape[1:]) for result in results])
        return _joined(parts, 0)

    def _still(self, bound: Bound, x: Tensor, span: Span) -> Maps:
        """Compute what comes before time begins."""
        maps = {self._input: x.flatten(0, 1).contiguous(memory_format=torch.channels_last)}
        _execute(bound, maps, span, {}, in_time=False)
        return maps


def _refused(operations: Sequence[Operation], modules: Sequence[nn.Module]) -> str | None:
    """Why a program cannot be run, whatever it is given."""
    if max(Counter(m for m in modules if isinstance(m, Neuron)).values(), default=1) > 1:
        return "layers share neurons, whose potentials go from one to the other"
    if not all(_fits(op) for op in operations):
        return "a layer does not fit the map that it reads"
    return None


def _fits(op: Operation) -> bool:
    """Return whether layers with weights are made for the channels of the maps that they read."""
    if isinstance(op, Conv):
        return op.layer.in_channels == op.x.channels
    if isinstance(op, Call):
        return not isinstance(op.module, nn.Linear) or op.module.in_features == op.x.channels
    return all(m.num_features == op.out.channels for m in _affines(op) if isinstance(m, BatchNorm))


def _execute(bound: Bound, maps: Maps, span: Span, states: States, *, in_time: bool) -> None:
    for layer, run in bound:
        if layer.in_time is in_time:
            run(maps, span, states)
            for value in layer.done:
                del maps[value]


def _joined(parts: Sequence[list[Tensor]], dim: int) -> list[Tensor]:
    """Join the parts of every result."""
    return parts[0] if len(parts) == 1 else [torch.cat(of_result, dim) for of_result in zip(*parts, strict=True)]


def _layers(operations: Sequence[Operation], results: Collection[Value], time: Collection[Value]) -> Iterator[Layer]:
    left = uses(operations, results)
    read, bits = frozenset(left), _as_bits(operations, results)
    for op in operations:
        left.subtract(op.reads())
        done = tuple({value for value in (*op.reads(), *writes(op)) if value in read and not left[value]})
        yield Layer(op, op.out in bits, _has_form(op), done, op.out in time, read)


def _has_form(op: Operation) -> bool:
    """Return whether an operation has bits that do not depend on the batch, all steps at once."""
    if isinstance(op, Conv):
        return has_order(op)
    return calls.is_ordered(op) if isinstance(op, Call) else not isinstance(op.join, Join)


def _as_bits(operations: Sequence[Operation], results: Collection[Value]) -> set[Value]:
    """Find the spikes that the pass which fires them writes as bits: nothing else reads them as anything else."""
    bits = {op.out for op in operations if is_pass(op) and op.out.domain == BINARY and op.out.channels % 8 == 0}
    maps = {op.x for op in operations if not isinstance(op, Between)}  # and no features, of which no layer reads bits
    for op in operations:
        if isinstance(op, Conv):
            takes = [op.x] if has_order(op) and reads_bits(op) else []
        elif isinstance(op, Call):
            takes = [op.x] if calls.reads_bits(op) else []
        else:
            takes = [*op.reads()] if is_pass(op) else []
        bits -= {value for value in op.reads() if value not in takes}
    return (bits & maps) - {*results}


def _bytes_of_pixel(operations: Sequence[Operation]) -> float:
    """Bytes of the first map that a convolution puts out, for a pixel of the image."""
    conv = next((op for op in operations if isinstance(op, Conv)), None)
    return FLOAT if conv is None else FLOAT * conv.out.channels / math.prod(conv.layer.stride)


def _modules(op: Operation) -> Iterator[nn.Module]:
    """Yield the modules of an operation, and what these hold."""
    yield from _affines(op)
    own = op.neuron if isinstance(op, Between) else op.module
    if own is not None:
        yield from own.modules()


def _affines(op: Operation) -> list[nn.Module]:
    """Return the norms and factors of an operation, and what these hold."""
    own: tuple[object, ...] = ()
    if isinstance(op, Between):
        own = op.x_affine, op.y_affine, op.affine
    elif isinstance(op, Conv):
        own = (op.affine,)
    return [module for affine in own if isinstance(affine, nn.Module) for module in affine.modules()]


def _is_plain(x: Tensor) -> bool:
    """Return whether ``x`` is what the library reads."""
    return x.dtype == torch.float32 and x.device.type == "cpu" and has_memory(x)


def _shape(layer: nn.Conv2d) -> tuple[int, ...]:
    """Return the shape that the weight of a convolution has."""
    return layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size
