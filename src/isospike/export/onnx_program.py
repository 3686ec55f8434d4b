"""A program as an ONNX graph: all steps at once, or one."""

from collections.abc import Set
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from isospike.errors import ConfigError
from isospike.export.onnx_graph import Graph
from isospike.export.onnx_layers import LAYERS, nodes_of
from isospike.export.onnx_neurons import OTHERS, State, Stepper, stepper_of
from isospike.export.outgoing import BATCH, Outgoing, has_memory, refuse_joins, rest_of
from isospike.graph import Between, Call, Conv, Operation, Value
from isospike.graph.program import Affine
from isospike.inference.convolution import folded, quantised
from isospike.inference.numbers import numbers_of
from isospike.layers import PerStepNorm
from isospike.neurons import Neuron


@dataclass(frozen=True)
class Stream:
    """A map in the graph: ``[T * B, ...]``, step by step one batch behind the other, or ``[B, ...]``, alike at all.

    Args:
        name: Of the tensor.
        timed: Which of the two.
    """

    name: str
    timed: bool


class OneStep:
    """One step of time: potentials come from outside, and go there.

    Args:
        net: The network.
        g: The graph.
        integers: Maps that convolutions read as integers, with weights of 8 bits.
    """

    def __init__(self, net: Outgoing, g: Graph, integers: Set[Value]) -> None:
        refuse_joins(net)
        self.net, self.g, self.integers = net, g, integers
        self.maps: dict[Value, Stream] = {}
        self.rests: dict[str, float] = {}  # potentials before the first step, by the name of the input
        self._after: list[tuple[str, str, tuple[int | str, ...]]] = []
        self._begun: str | None = None

    def write(self) -> None:
        """Write all of it: inputs, nodes, outputs."""
        self.maps[self.net.input] = self.image()
        for op in self.net.operations:
            self.g.within(self.net.name_of(op))
            self.maps[op.out] = self.operation(op)
        self.g.within("")
        self.results(self.maps[self.net.result], self.net.shapes[self.net.result])

    def image(self) -> Stream:
        """Write what the network reads."""
        return Stream(self.g.input("x", ("B", *self.net.shapes[self.net.input])), timed=False)

    def results(self, logits: Stream, shape: tuple[int, ...]) -> None:
        """Logits and potentials."""
        self.g.output("logits", logits.name, ("B", *shape))
        for name, v, dimensions in self._after:
            self.g.output(f"{name}.next", v, dimensions)
        if self._begun is not None:
            self.g.output("step.next", self.g.add("Add", self._begun, self.g.integers([1])), [1], integer=True)

    def operation(self, op: Operation) -> Stream:
        """Write an operation, and return the map that it puts out."""
        x = self.maps[op.x]
        if isinstance(op, Conv):
            return Stream(self.convolution(op, x.name), x.timed)
        if isinstance(op, Between):
            return self.between(op, x)
        if isinstance(op.module, Neuron):
            return self.fire(op, op.module, x)
        return Stream(self.layer(op, x.name), x.timed)

    def convolution(self, op: Conv, x: str) -> str:
        """Write a convolution with the norm behind it in its weights."""
        layer, name = op.layer, self.net.names[op.module]
        weight, bias = folded(op)
        rows, columns = map(int, layer.padding)
        window: dict[str, Any] = {
            "kernel_shape": [*layer.kernel_size],
            "strides": [*layer.stride],
            "pads": [rows, columns, rows, columns],
            "dilations": [*layer.dilation],
            "group": layer.groups,
        }
        if op.x in self.integers:
            integers, scale = quantised(weight)
            eight_bits = self.g.weight(f"{name}.weight", integers.numpy())
            sums = self.g.real(self.g.add("ConvInteger", self.g.byte(x), eight_bits, **window))
            return self.scaled(sums, scale, torch.zeros_like(scale) if bias is None else bias, rank=3)
        weights = [self.g.weight(f"{name}.weight", weight.numpy())]
        weights += [] if bias is None else [self.g.weight(f"{name}.bias", bias.numpy())]
        return self.g.add("Conv", x, *weights, **window)

    def layer(self, op: Call, x: str) -> str:
        """Write a layer without time."""
        name, nodes = self.net.names[op.module], nodes_of(op.module)
        if nodes is None or op.module._forward_hooks or op.module._forward_pre_hooks:
            known = ", ".join(kind.__name__ for kind in LAYERS)
            raise ConfigError(
                f"layer '{name}', a {type(op.module).__name__} with a forward, a padding or a hook of its own, cannot "
                f"be written as ONNX, which knows convolutions, norms, neurons, {known}: export_program traces "
                "any layer"
            )
        return nodes(self.g, op.module, name, self.net.shapes[op.x], x)

    def between(self, op: Between, x: Stream) -> Stream:
        """An affine, a sum, neurons or a join: as they were recorded, one of them."""
        if op.x_affine is not None:
            return self.affine(op.x_affine, x, len(self.net.shapes[op.x]))
        if op.neuron is not None:
            return self.fire(op, op.neuron, x)
        if op.y is not None:
            return self.both("Add", x, self.maps[op.y])
        assert op.z is not None, "there is nothing else that a recorder writes"
        return self.both("Mul", x, self.maps[op.z])

    def both(self, operator: str, a: Stream, b: Stream) -> Stream:
        """Two maps element by element."""
        timed = a.timed or b.timed
        return Stream(self.g.add(operator, self.unrolled(a, timed), self.unrolled(b, timed)), timed)

    def unrolled(self, x: Stream, timed: bool) -> str:
        """Write a map at every step, where it must be."""
        return x.name

    def affine(self, affine: Affine, x: Stream, rank: int) -> Stream:
        """Write a factor and a shift for every channel."""
        if isinstance(affine, PerStepNorm):
            return self.per_step(affine, x)
        scale, shift = (rows.double()[0] for rows in numbers_of(affine))
        return Stream(self.scaled(x.name, scale, shift, rank), x.timed)

    def scaled(self, x: str, scale: torch.Tensor, shift: torch.Tensor, rank: int) -> str:
        """``scale * x + shift``, each ``[C]`` or ``[1]``."""
        shape = (-1, 1, 1) if rank == 3 else (-1,)
        out = self.g.add("Mul", x, self.g.constant(scale.view(shape).numpy()))
        return out if not shift.any() else self.g.add("Add", out, self.g.constant(shift.view(shape).numpy()))

    def per_step(self, norms: PerStepNorm, x: Stream) -> Stream:
        """Take the row of the step that is counted from outside."""
        scale, shift = (
            self.g.add("Gather", self.g.constant(rows.view(*rows.shape, 1, 1).numpy()), self.begun(), axis=0)
            for rows in numbers_of(norms)
        )
        return Stream(self.g.add("Add", self.g.add("Mul", x.name, scale), shift), x.timed)

    def fire(self, op: Operation, neuron: Neuron, x: Stream) -> Stream:
        """Write a population of neurons."""
        shape, name = self.net.shapes[op.x], self.net.names[neuron]
        stepper = stepper_of(self.g, neuron, shape)
        if stepper is None:
            known = ", ".join(kind.__name__ for kind in OTHERS)
            raise ConfigError(
                f"neuron '{name}', a {type(neuron).__name__} with a forward of its own, cannot be written as ONNX, "
                f"which knows rows of the recurrence, {known}: export_program traces any neuron"
            )
        if not has_memory(neuron):
            return Stream(stepper.step(x.name, (), self.now)[0], x.timed)
        return self.through_time(neuron, f"v.{name}", (BATCH, *shape), stepper, x)

    def through_time(self, neuron: Neuron, name: str, shape: tuple[int, ...], stepper: Stepper, x: Stream) -> Stream:
        """Write a step of neurons with a memory: each of their potentials comes from outside and goes there."""
        names = [f"{name}.{potential}" if potential else name for potential in stepper.potentials]
        shape = neuron.state_shape(shape) if "" in stepper.potentials else shape
        dimensions = tuple("B" if size == BATCH else size for size in shape)
        before = tuple(self.g.input(one, dimensions) for one in names)
        self.rests |= dict.fromkeys(names, rest_of(neuron))
        out, after = stepper.step(x.name, before, self.now)
        self._after += [(one, v, dimensions) for one, v in zip(names, after, strict=True)]
        return Stream(out, x.timed)

    def begun(self) -> str:
        """Count the steps before this one, from outside."""
        if self._begun is None:
            self._begun = self.g.input("step", [1], integer=True)
        return self._begun

    def now(self) -> str:
        """Return the number of this step, from 1."""
        return self.g.real(self.g.add("Add", self.begun(), self.g.integers([1])))


class AllSteps(OneStep):
    """All T steps from rest: convolutions and norms see ``T * B`` maps, neurons alone are unrolled.

    Args:
        net: The network.
        g: The graph.
        integers: As of ``OneStep``.
        clip: Whether every step has an input of its own.
    """

    def __init__(self, net: Outgoing, g: Graph, integers: Set[Value], *, clip: bool) -> None:
        super().__init__(net, g, integers)
        self.clip = clip

    def image(self) -> Stream:
        """Images ``[B, ...]``, or clips ``[T, B, ...]``."""
        if not self.clip:
            return super().image()
        shape = self.net.shapes[self.net.input]
        x = self.g.input("x", (self.net.model.T, "B", *shape))
        return Stream(self.g.add("Reshape", x, self.g.integers([-1, *shape])), timed=True)

    def results(self, logits: Stream, shape: tuple[int, ...]) -> None:
        """Logits of every step, and their mean."""
        T = self.net.model.T
        per_step = self.g.add("Reshape", self.unrolled(logits, timed=True), self.g.integers([T, -1, *shape]))
        self.g.output("logits", self.g.add("ReduceMean", per_step, self.g.integers([0]), keepdims=0), ("B", *shape))
        self.g.output("per_step", per_step, (T, "B", *shape))

    def unrolled(self, x: Stream, timed: bool) -> str:
        """Write a map at every step, where it must be."""
        if x.timed or not timed or self.net.model.T == 1:
            return x.name
        return self.g.add("Concat", *[x.name] * self.net.model.T, axis=0)

    def per_step(self, norms: PerStepNorm, x: Stream) -> Stream:
        """Take every step by its row."""
        scale, shift = (self.g.constant(rows.view(len(rows), 1, -1, 1, 1).numpy()) for rows in numbers_of(norms))
        shape = self.g.add("Shape", x.name, start=1)
        steps = self.g.integers([self.net.model.T if x.timed else 1, -1])
        split = self.g.add("Reshape", x.name, self.g.add("Concat", steps, shape, axis=0))
        out = self.g.add("Add", self.g.add("Mul", split, scale), shift)
        return Stream(
            self.g.add("Reshape", out, self.g.add("Concat", self.g.integers([-1]), shape, axis=0)), timed=True
        )

    def through_time(self, neuron: Neuron, name: str, shape: tuple[int, ...], stepper: Stepper, x: Stream) -> Stream:
        """Step by step, from rest."""
        parts = self.g.split(x.name, self.net.model.T) if x.timed else [x.name] * self.net.model.T
        v: State = ()
        outputs = []
        for number, part in enumerate(parts, start=1):
            out, v = stepper.step(part, v, partial(self.g.number, number))
            outputs.append(out)
        return Stream(outputs[0] if len(outputs) == 1 else self.g.add("Concat", *outputs, axis=0), timed=True)
