"""A program as a graph of NIR: nodes of six kinds, and edges, of which those into one node are added up."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from isospike.errors import ConfigError
from isospike.export.nir_neurons import population
from isospike.export.onnx_neurons import pair, windows_of
from isospike.export.outgoing import Outgoing, Shape, refuse_joins
from isospike.graph import Between, Call, Conv, Operation, Value, uses
from isospike.graph.program import Affine
from isospike.inference.convolution import folded
from isospike.inference.numbers import numbers_of
from isospike.layers import GlobalPool, PaddedShortcut, PerStepNorm, SpikingMaxPool, is_exactly
from isospike.models.head import SampleDropout
from isospike.neurons import Neuron
from isospike.optional import import_optional

Array = npt.NDArray[Any]
Sum = Mapping[str, float]
"""A map: nodes, and the factors with which what they put out is added up."""


class Graph:
    """Nodes and edges that grow; a map of features is one of one pixel."""

    def __init__(self) -> None:
        self.nir = import_optional("nir", extra="nir", purpose="a network as a NIR graph")
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []

    def add(self, name: str, node: Any, sources: Sum) -> Sum:
        """Add a node that reads the sum of others, whose factors are 1."""
        name = base = name.replace(".", "_")
        number = 1
        while name in self.nodes:
            number += 1
            name = f"{base}_{number}"
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return {name: 1.0}

    def conv(
        self, name: str, x: Sum, weight: Array, bias: Array | None, size: Shape, stride: Shape = (1, 1),
        padding: Shape = (0, 0), dilation: Shape = (1, 1),
    ) -> Sum:  # fmt: skip
        """A convolution of maps of ``size``, its weights ``[O, C, k, k]`` times what factor ``x`` has."""
        x, factor = self.alike(name, x, weight.shape[1], size)
        node = self.nir.Conv2d(
            input_shape=tuple(size),
            weight=(weight * factor).astype(np.float32),
            stride=np.array(stride),
            padding=np.array(padding),
            dilation=np.array(dilation),
            groups=1,
            bias=(np.zeros(len(weight)) if bias is None else bias).astype(np.float32),
        )
        return self.add(name, node, x)

    def scaled(self, name: str, x: Sum, scale: Array, shift: Array, size: Shape) -> Sum:
        """``scale * x + shift`` per channel ``[C]``: NIR has no such node, so it is a convolution of one pixel."""
        return self.conv(name, x, np.diag(scale)[:, :, None, None], shift, size)

    def alike(self, name: str, x: Sum, channels: int, size: Shape) -> tuple[Sum, float]:
        """``x`` as a sum of nodes with factor 1, times one factor."""
        factors = {*x.values()}
        if len(factors) == 1:
            return dict.fromkeys(x, 1.0), factors.pop()
        plain: dict[str, float] = {}
        for source, factor in x.items():
            same = {source: 1.0}
            ones = np.full(channels, factor)
            plain |= same if factor == 1 else self.scaled(f"{name}_of_{source}", same, ones, 0 * ones, size)
        return plain, 1.0

    def plain(self, name: str, x: Sum, shape: Shape) -> Sum:
        """``x`` as a sum of nodes with factor 1."""
        same, factor = self.alike(name, x, shape[0], shape[1:])
        ones = np.full(shape[0], factor)
        return same if factor == 1 else self.scaled(f"{name}_input", same, ones, 0 * ones, shape[1:])


@dataclass
class Writer:
    """A network on its way into a graph.

    Args:
        net: The network.
        lossy: Whether what NIR cannot say becomes what is nearest.
        losses: A sentence for each of these places.
    """

    net: Outgoing
    lossy: bool
    losses: list[str] = field(default_factory=list)
    graph: Graph = field(default_factory=Graph)
    maps: dict[Value, Sum] = field(default_factory=dict)
    shapes: dict[Value, Shape] = field(default_factory=dict)  # [C, H, W]; pixels stay where the network flattens them

    def write(self) -> None:
        """Write all of it. A sum that several read is a node: edges would grow with the square of the depth."""
        refuse_joins(self.net)
        shape = self.shapes[self.net.input] = self.net.shapes[self.net.input]
        self.maps[self.net.input] = self.graph.add("input", self.graph.nir.Input({"input": np.array(shape)}), {})
        count = uses(self.net.operations, [self.net.result])
        for op in self.net.operations:
            self.shapes[op.out] = shape = self.shape_after(op)
            out = self.operation(op)
            if len(out) > 1 and (count[op.out] > 1 or op.out == self.net.result):
                out = self.single(f"sum_{op.out.number}", out, shape)
            self.maps[op.out] = out
        logits = self.graph.plain("output", self.maps[self.net.result], shape)
        self.graph.add("output", self.graph.nir.Output({"output": np.array(shape)}), logits)

    def shape_after(self, op: Operation) -> Shape:
        """Return the shape of what an operation puts out; features are maps of one pixel."""
        if (
            isinstance(op, Between)
            or isinstance(op.module, Neuron | nn.Flatten)
            and not is_exactly(op.module, SpikingMaxPool)
        ):
            return self.shapes[op.x]
        shape = self.net.shapes[op.out]
        return shape if len(shape) == 3 else (*shape, 1, 1)

    def single(self, name: str, x: Sum, shape: Shape) -> Sum:
        """Write a sum as one node."""
        ones = np.ones(shape[0])
        return self.graph.scaled(name, x, ones, 0 * ones, shape[1:])

    def operation(self, op: Operation) -> Sum:
        """Write an operation, and return the map that it puts out."""
        if isinstance(op, Conv):
            return self.convolution(op)
        if isinstance(op, Between):
            return self.between(op)
        name, x, shape = self.net.names[op.module], self.maps[op.x], self.shapes[op.x]
        if isinstance(op.module, Neuron) and not is_exactly(op.module, SpikingMaxPool):
            return self.fire(op.module, x, shape)
        return self.layer(op, name, x, shape)

    def convolution(self, op: Conv) -> Sum:
        """Write a convolution with the norm behind it in its weights."""
        weight, bias = folded(op)
        layer, name = op.layer, self.net.names[op.module]
        dense, padding = _square(name, _dense(weight, layer.groups), tuple(map(int, layer.padding)), layer.dilation)
        size = self.shapes[op.x][1:]
        shift = None if bias is None else bias.numpy()
        return self.graph.conv(name, self.maps[op.x], dense, shift, size, layer.stride, padding, layer.dilation)

    def between(self, op: Between) -> Sum:
        """An affine, a sum, neurons or a join: as they were recorded, one of them; only sums are edges."""
        x = self.maps[op.x]
        if op.x_affine is not None:
            return self.affine(op.x_affine, x, self.shapes[op.x])
        if op.neuron is not None:
            return self.fire(op.neuron, x, self.shapes[op.x])
        if op.y is not None:
            return added(x, self.maps[op.y])
        raise ConfigError(
            f"NIR adds maps up and multiplies none, as the join behind '{self.net.name_of(op)}' does: train with "
            "join='add', or export the network as ONNX"
        )

    def affine(self, affine: Affine, x: Sum, shape: Shape) -> Sum:
        """A factor stays with the map until somebody reads it; a norm that no convolution has taken up is a node."""
        name = self.net.names[affine] if isinstance(affine, nn.Module) else "complement"
        if isinstance(affine, PerStepNorm):
            self.lose(f"norm '{name}' has weights for every step, and not their means over the steps")
        scale, shift = (rows.double().mean(0).expand(-1 if rows.shape[1] > 1 else 1) for rows in numbers_of(affine))
        if len(scale) == 1 and not shift.any():
            return {source: factor * float(scale) for source, factor in x.items()}
        channels = shape[0]
        return self.graph.scaled(name, x, scale.expand(channels).numpy(), shift.expand(channels).numpy(), shape[1:])

    def fire(self, neuron: Neuron, x: Sum, shape: Shape) -> Sum:
        """Write a population of neurons."""
        name = self.net.names[neuron]
        found = population(neuron, shape)
        if found is None:
            raise ConfigError(
                f"NIR has no neurons like '{name}', a {type(neuron).__name__}: train with IF, LIF, PLIF or MLF "
                "neurons, convert by a method whose neurons put out spikes alone, or export the network as ONNX"
            )
        for loss in found.losses:
            self.lose(f"neuron '{name}' {loss}")
        if not found.nodes:
            return x
        x = self.graph.plain(name, x, shape)
        return {key: 1.0 for node in found.nodes for key in self.graph.add(name, node, x)}

    def layer(self, op: Call, name: str, x: Sum, shape: Shape) -> Sum:
        """Write a layer without time."""
        module: Any = op.module
        if module._forward_hooks or module._forward_pre_hooks:
            raise ConfigError(f"a hook sees layer '{name}', so nobody knows what it puts out: remove the hook")
        if any(is_exactly(module, kind) for kind in (nn.Identity, SampleDropout, nn.Flatten)):
            return x
        if is_exactly(module, nn.Linear):
            return self.linear(module, name, x, shape)
        if is_exactly(module, GlobalPool):
            return self.sums(name, x, shape[1:], shape[1:], (0, 0), 1 / (shape[1] * shape[2]))
        if is_exactly(module, nn.AvgPool2d):
            return self.average_pool(module, name, x, shape)
        if is_exactly(module, nn.MaxPool2d) or is_exactly(module, SpikingMaxPool):
            return self.max_pool(module, name, x, op.x.domain.largest == 1, shape, self.shapes[op.out])
        if is_exactly(module, PaddedShortcut):
            kept = nn.functional.pad(torch.eye(module.in_channels), (0, 0, module.before, module.behind))
            stride = (module.stride, module.stride)
            return self.graph.conv(name, x, kept.numpy()[:, :, None, None], None, shape[1:], stride)
        raise ConfigError(
            f"NIR has no node for layer '{name}', a {type(module).__name__}: export_program traces any layer"
        )

    def linear(self, layer: nn.Linear, name: str, x: Sum, shape: Shape) -> Sum:
        """A convolution that sees all pixels at once: readers disagree on what a ``Flatten`` does to the batch."""
        weight, _ = _square(name, layer.weight.view(-1, *shape), (0, 0), (1, 1))
        return self.graph.conv(name, x, weight, None if layer.bias is None else layer.bias.numpy(), shape[1:])

    def sums(self, name: str, x: Sum, kernel: Shape, stride: Shape, padding: Shape, factor: float) -> Sum:
        """Sums over windows, times a factor that whoever reads them takes up: not all readers have means."""
        x, before = self.graph.alike(name, x, 1, kernel)
        arrays = {"kernel_size": np.array(kernel), "stride": np.array(stride), "padding": np.array(padding)}
        return {node: before * factor for node in self.graph.add(name, self.graph.nir.SumPool2d(**arrays), x)}

    def average_pool(self, pool: nn.AvgPool2d, name: str, x: Sum, shape: Shape) -> Sum:
        """Sums, divided."""
        kernel, stride, padding = pair(pool.kernel_size), pair(pool.stride), pair(pool.padding)
        if any(windows_of(pool, shape).beyond) or (any(padding) and not pool.count_include_pad):
            raise ConfigError(
                f"average pool '{name}' divides by other numbers at the border, and no node of NIR does: take "
                "ceil_mode=False and count_include_pad=True, or export the network as ONNX"
            )
        return self.sums(name, x, kernel, stride, padding, 1 / (pool.divisor_override or kernel[0] * kernel[1]))

    def max_pool(self, pool: Any, name: str, x: Sum, binary: bool, shape: Shape, out: Shape) -> Sum:
        """Of spikes it is a sum above a half; of other maps NIR has none, and the mean is nearest."""
        kernel, stride, padding = pair(pool.kernel_size), pair(pool.stride), pair(pool.padding)
        if any(windows_of(pool, shape).beyond) or pair(pool.dilation) != (1, 1):
            raise ConfigError(
                f"max pool '{name}' has windows that no pool of NIR has: take ceil_mode=False and dilation=1, or "
                "export the network as ONNX"
            )
        if binary and is_exactly(pool, nn.MaxPool2d):
            count = self.sums(f"{name}_sum", self.graph.plain(name, x, shape), kernel, stride, padding, 1.0)
            return self.graph.add(name, self.graph.nir.Threshold(np.full(out, 0.5)), count)
        self.lose(f"max pool '{name}' takes the largest of a window, and not the mean")
        return self.sums(name, x, kernel, stride, padding, 1 / (kernel[0] * kernel[1]))

    def lose(self, loss: str) -> None:
        """Note a loss, or refuse it.

        Raises:
            ConfigError: the file shall be exact.
        """
        if not self.lossy:
            raise ConfigError(f"NIR cannot say that {loss}: export it with lossy=True, or as ONNX")
        self.losses.append(loss)


def added(x: Sum, y: Sum) -> Sum:
    """Return the sum of two maps; there are no two edges between the same nodes."""
    return {source: x.get(source, 0.0) + y.get(source, 0.0) for source in {**x, **y}}


def _dense(weight: Tensor, groups: int) -> Tensor:
    """The same weights for all input channels, with zeros between groups: NIR's types know no groups."""
    if groups == 1:
        return weight
    parts = weight.chunk(groups)
    dense = weight.new_zeros(len(weight), groups * weight.shape[1], *weight.shape[2:])
    for number, part in enumerate(parts):
        rows, columns = number * len(part), number * weight.shape[1]
        dense[rows : rows + len(part), columns : columns + weight.shape[1]] = part
    return dense


def _square(name: str, weight: Tensor, padding: Shape, dilation: Shape) -> tuple[Array, Shape]:
    """Weights ``[O, C, k, k]`` that do the same, and their padding: NIR's types take height and width for equal."""
    rows, columns = weight.shape[2:]
    size = max(rows, columns)
    more = (size - rows, size - columns)
    if more[0] % 2 or more[1] % 2:
        raise ConfigError(
            f"layer '{name}' has weights of {rows}x{columns}, and NIR takes them for square: export the network as ONNX"
        )
    half = more[0] // 2, more[1] // 2
    padded = nn.functional.pad(weight, (half[1], half[1], half[0], half[0]))
    return padded.numpy(), tuple(p + d * h for p, d, h in zip(padding, dilation, half, strict=True))
