"""``from_nir``: a graph of NIR as a network, be it ours or that of others, as far as its nodes are ours."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from isospike.errors import ConfigError, IsospikeError
from isospike.export.nir_neurons import DT, KEY
from isospike.export.outgoing import Shape
from isospike.graph import Program, module_from_json
from isospike.graph.recorder import Recorder, Symbol
from isospike.inputs import Inputs
from isospike.layers import Conv2d
from isospike.models import ProgramNet
from isospike.neurons import IF, LIF
from isospike.optional import import_optional
from isospike.residual import REAL

DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError, IndexError, RuntimeError)


def from_nir(path: Path | str, *, T: int | None = None, dt: float | None = None) -> ProgramNet:
    """Read a network that somebody wrote as NIR, in eval mode.

    Its equations are stepped as ``export_nir`` writes them. Neurons that lost something in a file of ``export_nir`` are
    what they were, as the metadata of their nodes say.

    Args:
        path: The file.
        T: Time steps for static images. None: what the file says.
        dt: Seconds of a step. None: what the file says, or 0.0001.

    Raises:
        ConfigError: it is no NIR file, a node is none of ours, a loop leads back into the past, or nobody says T.
        MissingExtra: nir is not installed.

    Source: Pedersen et al. 2024 (NIR), arXiv:2311.14641.
    """
    nir = import_optional("nir", extra="nir", purpose="a network from a NIR file")
    try:
        graph = nir.read(str(path))
        facts = json.loads(graph.metadata.get(KEY, "{}"))
        inputs = facts.get("inputs") and Inputs(**facts["inputs"])
        names = _in_order(graph)
    except IsospikeError:
        raise
    except DAMAGED as error:
        raise ConfigError(f"{path} cannot be read as a NIR graph: {type(error).__name__}: {error}") from error
    T = facts.get("T") if T is None else T
    if T is None:
        raise ConfigError(f"{path} does not say how many time steps a static image is shown: give T=")
    net = Reader(graph, facts.get("dt", DT) if dt is None else dt).network(names, T)
    net.inputs = inputs
    return net


class Reader:
    """A graph on its way into a program.

    Args:
        graph: Of NIR.
        dt: Seconds of a step.
    """

    def __init__(self, graph: Any, dt: float) -> None:
        self.graph, self.dt = graph, dt
        self.recorder = Recorder()
        self.modules: dict[str, nn.Module] = {}
        self.weights: dict[str, Tensor] = {}
        self.name = ""

    def network(self, names: list[str], T: int) -> ProgramNet:
        """Read all nodes in their order."""
        before: dict[str, list[str]] = {name: [a for a, b in self.graph.edges if b == name] for name in names}
        maps: dict[str, Symbol] = {}
        image: Shape = ()
        for self.name in names:
            node = self.graph.nodes[self.name]
            kind = type(node).__name__
            if kind == "Input":
                image = shape_of(node, "output")
                if len(image) != 3 or maps:
                    raise ConfigError(f"a network reads one image [C, H, W], and input '{self.name}' is {list(image)}")
                maps[self.name] = Symbol(self.recorder, self.recorder.value(image[0], REAL))
                continue
            if not before[self.name]:
                raise ConfigError(f"nothing leads to node '{self.name}'")
            first, *rest = (maps[name] for name in before[self.name])
            x = sum(rest, start=first)
            maps[self.name] = self.flat(x, node) if kind == "Output" else self.read(kind, node, x)
        (output,) = (name for name in names if type(self.graph.nodes[name]).__name__ == "Output")
        net = ProgramNet(
            Program(tuple(self.recorder.operations), maps[names[0]].value, (maps[output].value,)),
            self.modules,
            T=T,
            least_size=min(image[1:]),
        )
        net.load_state_dict(self.weights)
        return net.eval()

    def read(self, kind: str, node: Any, x: Symbol) -> Symbol:
        """Return what a node puts out."""
        if kind not in NODES:
            raise ConfigError(f"node '{self.name}' is a {kind}, and there are readers for {', '.join(NODES)}")
        try:
            if text := node.metadata.get(KEY):
                return self.layer(module_from_json(json.loads(text)), x)
            return NODES[kind](self, node, x)
        except DAMAGED as error:  # an IsospikeError is a ValueError: options that a neuron refuses
            raise ConfigError(f"node '{self.name}', a {kind}: {error}") from error

    def layer(self, module: nn.Module, x: Symbol, **weights: npt.NDArray[Any] | None) -> Symbol:
        """Make a layer of ours, and its weights."""
        name = f"nodes.{self.name.replace('.', '_')}"
        while name in self.modules:
            name += "_again"
        self.modules[name] = module
        given = {key: torch.tensor(array, dtype=torch.float32) for key, array in weights.items() if array is not None}
        self.weights |= {f"{name}.{key}": tensor for key, tensor in given.items()}
        return self.recorder.through(module, x)

    def flat(self, x: Symbol, node: Any) -> Symbol:
        """Logits as features, also where they are maps of one pixel."""
        shape = shape_of(node, "input")
        if len(shape) == 1:
            return x
        if shape[1:] != (1, 1):
            raise ConfigError(
                f"a network puts out one number for each class, and output '{self.name}' is {list(shape)}"
            )
        return self.layer(nn.Flatten(), x)


def conv2d(reader: Reader, node: Any, x: Symbol) -> Symbol:
    """Groups are ours too."""
    weight, stride, dilation = node.weight, two(node.stride), two(node.dilation)
    padding = node.padding
    if isinstance(padding, str):
        if padding == "same" and (stride != (1, 1) or any(size % 2 == 0 for size in weight.shape[2:])):
            raise ConfigError("padding 'same' is read of odd kernels of stride 1: write its numbers")
        same = [d * (size - 1) // 2 for d, size in zip(dilation, weight.shape[2:], strict=True)]
        padding = same if padding == "same" else 0
    groups = int(node.groups)
    conv = Conv2d(
        weight.shape[1] * groups, len(weight), weight.shape[2:], stride, two(padding), dilation, groups,
        bias=node.bias is not None,
    )  # fmt: skip
    return reader.layer(conv, x, weight=weight, bias=node.bias)


def linear(reader: Reader, node: Any, x: Symbol) -> Symbol:
    """``Affine`` or ``Linear`` of features."""
    if len(shape_of(node, "input")) != 1 or node.weight.ndim != 2:
        raise ConfigError(f"it reads {list(shape_of(node, 'input'))}, and a linear layer reads features: flatten them")
    bias = getattr(node, "bias", None)
    layer = nn.Linear(node.weight.shape[1], node.weight.shape[0], bias=bias is not None)
    return reader.layer(layer, x, weight=node.weight, bias=bias)


def scale(reader: Reader, node: Any, x: Symbol) -> Symbol:
    """Make a factor, or one for each channel."""
    if np.unique(node.scale).size == 1:
        return x * number(node, "scale")
    rows = node.scale.reshape(len(node.scale), -1)
    if node.scale.ndim != 3 or not (rows == rows[:, :1]).all():
        raise ConfigError("it scales every pixel otherwise: there are factors for channels")
    return depthwise(reader, x, rows[:, :1, None, None])


def sum_pool(reader: Reader, node: Any, x: Symbol) -> Symbol:
    """Make a convolution of ones."""
    kernel = two(node.kernel_size)
    ones = np.ones((x.value.channels, 1, *kernel))
    return depthwise(reader, x, ones, stride=two(node.stride), padding=two(node.padding))


def depthwise(reader: Reader, x: Symbol, weight: npt.NDArray[Any], **options: Any) -> Symbol:
    """Make a convolution that takes every channel by itself."""
    conv = Conv2d(len(weight), len(weight), weight.shape[2:], groups=len(weight), bias=False, **options)
    return reader.layer(conv, x, weight=weight)


def average_pool(reader: Reader, node: Any, x: Symbol) -> Symbol:
    """Padding counts."""
    return reader.layer(nn.AvgPool2d(two(node.kernel_size), two(node.stride), two(node.padding)), x)


def flatten(reader: Reader, node: Any, x: Symbol) -> Symbol:
    """All of a map; counted without the batch, as NIR says, or with it, as many write."""
    shape = shape_of(node, "input")
    if len(shape_of(node, "output")) != 1 and (int(node.start_dim), int(node.end_dim)) not in (
        (1, -1),
        (1, len(shape)),
    ):
        raise ConfigError(f"it flattens {list(shape)} to {list(shape_of(node, 'output'))}, and not to features")
    symbol = reader.layer(nn.Flatten(), x)
    out = reader.recorder.value(int(np.prod(shape)), x.value.domain)
    return symbol if symbol.value.channels == out.channels else _renamed(reader, out)


def _renamed(reader: Reader, out: Any) -> Symbol:
    """Return the last operation, which puts ``out`` out in place of a map of other channels."""
    last = reader.recorder.operations.pop()
    reader.recorder.operations.append(type(last)(last.x, out, last.module, last.timed))  # type: ignore[union-attr, arg-type]
    return Symbol(reader.recorder, out)


def threshold(reader: Reader, node: Any, x: Symbol) -> Symbol:
    """Make a neuron that keeps nothing."""
    return reader.layer(LIF(decay=0.0, v_threshold=number(node, "threshold"), strict=True), x)


def integrate(reader: Reader, node: Any, x: Symbol) -> Symbol:
    """``v += R I`` at every step."""
    r = number(node, "r")
    neuron = IF(v_threshold=number(node, "v_threshold"), v_reset=number(node, "v_reset"), strict=True)
    return reader.layer(neuron, x if r == 1 else x * r)


def leaky(reader: Reader, node: Any, x: Symbol) -> Symbol:
    """``v += dt / tau * (R I - v)``."""
    if number(node, "v_leak") != 0:
        raise ConfigError(f"its potential leaks to {number(node, 'v_leak'):g}, and ours leak to 0")
    r = number(node, "r")
    neuron = LIF(
        tau=number(node, "tau") / reader.dt,
        v_threshold=number(node, "v_threshold"),
        v_reset=number(node, "v_reset"),
        strict=True,
    )
    return reader.layer(neuron, x if r == 1 else x * r)


def number(node: Any, name: str) -> float:
    """Return a parameter that all neurons of a node share."""
    values = np.unique(getattr(node, name))
    if values.size != 1:
        raise ConfigError(f"its neurons differ in {name}, from {values[0]:g} to {values[-1]:g}: ours share one")
    return float(values[0])


def two(value: Any) -> tuple[int, int]:
    """Return the numbers of rows and columns."""
    rows, columns = np.broadcast_to(np.asarray(value, int), 2)
    return int(rows), int(columns)


def shape_of(node: Any, side: str) -> Shape:
    """Return what a node reads ("input") or puts out ("output"), without the batch."""
    (shape,) = (node.input_type if side == "input" else node.output_type).values()
    return tuple(int(size) for size in shape)


def _in_order(graph: Any) -> list[str]:
    """Names of all nodes, each behind those that it reads, the input first."""
    left = {name: {a for a, b in graph.edges if b == name} for name in graph.nodes}
    kinds = [type(node).__name__ for node in graph.nodes.values()]
    if kinds.count("Input") != 1 or kinds.count("Output") != 1:
        counts = f"{kinds.count('Input')} and {kinds.count('Output')}"
        raise ConfigError(f"a network has one input and one output, and this graph has {counts}")
    order: list[str] = []
    while left:
        ready = [name for name, reads in left.items() if not reads - {*order}]
        if not ready:
            raise ConfigError(
                f"nodes {', '.join(sorted(left)[:4])} read each other: loops through time are none of ours"
            )
        order += ready
        for name in ready:
            del left[name]
    return order


NODES: Mapping[str, Callable[[Reader, Any, Symbol], Symbol]] = {
    "Conv2d": conv2d,
    "Affine": linear,
    "Linear": linear,
    "Scale": scale,
    "SumPool2d": sum_pool,
    "AvgPool2d": average_pool,
    "Flatten": flatten,
    "Threshold": threshold,
    "IF": integrate,
    "LIF": leaky,
}
