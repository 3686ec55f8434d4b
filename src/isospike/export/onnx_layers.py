"""Layers without time as ONNX nodes, by their class."""

from collections.abc import Callable
from typing import Any

from torch import nn

from isospike.errors import ConfigError
from isospike.export.onnx_graph import Graph
from isospike.export.onnx_neurons import max_pool, windows_of
from isospike.export.outgoing import Shape
from isospike.layers import GlobalPool, PaddedShortcut, is_exactly
from isospike.models.head import SampleDropout

Nodes = Callable[[Graph, Any, str, Shape, str], str]
"""From the graph, a layer, its name, the shape of what it reads without the batch, and that: what it puts out."""


def nodes_of(layer: nn.Module) -> Nodes | None:
    """Return how a layer is written; None where nobody knows."""
    return next((nodes for kind, nodes in LAYERS.items() if is_exactly(layer, kind)), None)


def linear(g: Graph, layer: nn.Linear, name: str, shape: Shape, x: str) -> str:
    """``[N, in] -> [N, out]``."""
    if len(shape) != 1:
        raise ConfigError(f"layer '{name}' is linear and reads maps {list(shape)}: flatten or pool them before it")
    weights = [g.weight(f"{name}.weight", layer.weight.numpy())]
    weights += [] if layer.bias is None else [g.weight(f"{name}.bias", layer.bias.numpy())]
    return g.add("Gemm", x, *weights, transB=1)


def average_pool(g: Graph, pool: nn.AvgPool2d, name: str, shape: Shape, x: str) -> str:
    """Means over windows."""
    windows = windows_of(pool, shape)
    if pool.divisor_override is not None or (pool.count_include_pad and any(windows.beyond)):
        raise ConfigError(
            f"average pool '{name}' divides by another number than ONNX: take count_include_pad=False, or "
            "ceil_mode=False and no divisor_override"
        )
    rows, columns, *ends = windows.attributes["pads"]
    pads = [rows, columns, *(end + more for end, more in zip(ends, windows.beyond, strict=True))]
    attributes = windows.attributes | {"pads": pads}
    return g.add("AveragePool", x, **attributes, count_include_pad=int(pool.count_include_pad))


def padded_shortcut(g: Graph, layer: PaddedShortcut, name: str, shape: Shape, x: str) -> str:
    """Some pixels, between channels of zeros."""
    if layer.stride != 1:
        steps = g.integers([layer.stride] * 2)
        x = g.add("Slice", x, g.integers([0, 0]), g.integers([*shape[1:]]), g.integers([2, 3]), steps)
    if not layer.before and not layer.behind:
        return x
    return g.add("Pad", x, g.integers([0, layer.before, 0, 0, 0, layer.behind, 0, 0]), g.number(0))


def _nothing(g: Graph, layer: nn.Module, name: str, shape: Shape, x: str) -> str:
    return x


LAYERS: dict[type[nn.Module], Nodes] = {
    nn.Linear: linear,
    nn.MaxPool2d: lambda g, pool, name, shape, x: max_pool(g, pool, shape, x),
    nn.AvgPool2d: average_pool,
    GlobalPool: lambda g, pool, name, shape, x: g.add("ReduceMean", x, g.integers([2, 3]), keepdims=0),
    nn.Flatten: lambda g, layer, name, shape, x: g.add("Flatten", x, axis=1),
    PaddedShortcut: padded_shortcut,
    SampleDropout: _nothing,
    nn.Identity: _nothing,
}
