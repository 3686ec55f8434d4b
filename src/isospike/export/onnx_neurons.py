"""Neurons as ONNX nodes: one step each, from a current and a potential to what they put out and the potential after.

The potential before the first step is None: rest. The equations are those of ``isospike.ops.reference``, whose bits
tests ask for.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from isospike.export.onnx_graph import Graph
from isospike.export.outgoing import Shape
from isospike.layers import FoldedNeuron, SpikingMaxPool, SpikingReadout, is_exactly
from isospike.neurons import QCFS, Neuron, ReLU, SpikingNeuron, is_recurrence
from isospike.ops import FireRule, IntegerRule, SignedRule

Step = Callable[[str, str | None], tuple[str, str | None]]


def step_of(g: Graph, neuron: Neuron, shape: Shape) -> Step | None:
    """One step of ``neuron`` on maps ``[B, *shape]``; None where there are no nodes for it."""
    if is_recurrence(neuron) and not isinstance(neuron.rule, SignedRule):
        decay, gain = map(float, neuron.coefficients())
        if isinstance(neuron.rule, IntegerRule):
            return partial(integer_step, g, neuron.rule, decay, gain)
        return partial(fire_step, g, neuron.rule, decay, gain, len(shape))
    for kind, step in OTHERS.items():
        if is_exactly(neuron, kind):
            return partial(step, g, neuron, shape)
    return None


def fire_step(
    g: Graph, rule: FireRule, decay: float, gain: float, dims: int, x: str, v: str | None
) -> tuple[str, str | None]:
    """A step at one threshold, or at several with a potential each ``[levels, B, ...]``."""
    h = charge(g, decay, gain, x, v)
    levels = np.array([rule.v_threshold, *rule.higher])
    threshold = g.constant(levels.reshape(-1, *[1] * (dims + 1)) if rule.higher else levels[0])
    fired, s = fires(g, h, threshold, strict=rule.strict)
    if rule.reset == "subtract":
        after = g.add("Sub", h, g.add("Mul", s, threshold))
    else:
        after = g.add("Where", fired, g.number(rule.v_reset), h)
    return (g.add("ReduceSum", s, g.integers([0]), keepdims=0) if rule.higher else s), after


def integer_step(
    g: Graph, rule: IntegerRule, decay: float, gain: float, x: str, v: str | None
) -> tuple[str, str | None]:
    """The nearest integer, half to even, as ONNX's ``Round`` has it too."""
    h = charge(g, decay, gain, x, v)
    threshold = g.number(rule.v_threshold)
    clipped = g.add("Clip", g.add("Div", h, threshold), g.number(0), g.number(rule.levels))
    s = g.add("Round", clipped)
    return s, g.add("Sub", h, g.add("Mul", s, threshold))


def charge(g: Graph, decay: float, gain: float, x: str, v: str | None) -> str:
    """``decay * v + gain * x``."""
    x = x if gain == 1 else g.add("Mul", g.number(gain), x)
    if v is None:
        return x
    return g.add("Add", v if decay == 1 else g.add("Mul", g.number(decay), v), x)


def fires(g: Graph, h: str, threshold: str, *, strict: bool) -> tuple[str, str]:
    """Return whether potentials reach a threshold, as truths and as numbers."""
    fired = g.add("Greater" if strict else "GreaterOrEqual", h, threshold)
    return fired, g.add("Cast", fired, to=int(g.onnx.helper.np_dtype_to_tensor_dtype(g.dtype)))


def folded_step(g: Graph, neuron: FoldedNeuron, shape: Shape, x: str, v: str | None) -> tuple[str, str | None]:
    """A norm in it: every channel has a threshold, which may be below."""
    assert isinstance(neuron.neuron, SpikingNeuron), "a norm folds into no other"
    decay, gain = map(float, neuron.neuron.coefficients())
    slope, current = neuron.slope.numpy(), neuron.current.numpy()
    threshold = g.constant(neuron.rule.v_threshold / slope)
    h = charge(g, decay, gain, g.add("Add", x, g.constant(current)), v)
    above = g.add("Mul", g.constant(np.sign(slope)), g.add("Sub", h, threshold))
    fired, s = fires(g, above, g.number(0), strict=neuron.rule.strict)
    if neuron.rule.reset == "subtract":
        return s, g.add("Sub", h, g.add("Mul", s, threshold))
    return s, g.add("Where", fired, g.constant(neuron.rule.v_reset / slope), h)


def relu_step(g: Graph, neuron: ReLU, shape: Shape, x: str, v: str | None) -> tuple[str, str | None]:
    """No memory."""
    return g.add("Relu", x), None


def qcfs_step(g: Graph, neuron: QCFS, shape: Shape, x: str, v: str | None) -> tuple[str, str | None]:
    """No memory; the sums of its straight-through floor are kept, as they round."""
    threshold, L = g.number(float(neuron.threshold)), g.number(neuron.L)
    share = g.add("Clip", g.add("Div", x, threshold), g.number(0), g.number(1))
    steps = g.add("Floor", g.add("Add", g.add("Mul", share, L), g.number(0.5)))
    rounded = g.add("Div", steps, L)
    return g.add("Mul", g.add("Add", share, g.add("Sub", rounded, share)), threshold), None


def max_pool_step(g: Graph, pool: SpikingMaxPool, shape: Shape, x: str, v: str | None) -> tuple[str, str | None]:
    """Return what the largest sum of a window has grown by."""
    sums = x if v is None else g.add("Add", x, v)
    largest = max_pool(g, pool, shape, sums)
    return (largest if v is None else g.add("Sub", largest, max_pool(g, pool, shape, v))), sums


def readout_step(g: Graph, readout: SpikingReadout, shape: Shape, x: str, v: str | None) -> tuple[str, str | None]:
    """Spikes, and what the softmax of the potentials has grown by."""
    h = g.add("Add", g.number(readout.start) if v is None else v, x)
    _, s = fires(g, h, g.number(1), strict=False)
    after = g.add("Sub", h, s)
    before = g.number(1 / shape[-1]) if v is None else g.add("Softmax", v, axis=-1)
    return g.add("Sub", g.add("Add", s, g.add("Softmax", after, axis=-1)), before), after


def max_pool(g: Graph, pool: Any, shape: Shape, x: str) -> str:
    """``nn.MaxPool2d`` and its like on maps ``[B, *shape]``: what is around a map is below all of it."""
    windows = windows_of(pool, shape)
    if any(windows.beyond):
        x = g.add("Pad", x, g.integers([0] * 6 + [*windows.beyond]), g.number(-np.inf))
    return g.add("MaxPool", x, **windows.attributes, dilations=[*pair(pool.dilation)])


class Windows(NamedTuple):
    """The windows of a pool on maps of a known size.

    Args:
        attributes: ``kernel_shape``, ``strides`` and ``pads`` in ONNX.
        beyond: Rows and columns by which the last go beyond the padding, as with ``ceil_mode``; ONNX counts them
            differently there, so they are more padding at the end.
    """

    attributes: dict[str, list[int]]
    beyond: tuple[int, ...]


def windows_of(pool: Any, shape: Shape) -> Windows:
    """Return the windows of a pool that reads maps ``[B, *shape]``."""
    kernel, stride, padding = pair(pool.kernel_size), pair(pool.stride), pair(pool.padding)
    dilation = pair(getattr(pool, "dilation", 1))
    count = F.max_pool2d(torch.zeros(1, *shape), kernel, stride, padding, dilation, pool.ceil_mode).shape[2:]
    reached = ((n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(count, stride, dilation, kernel, strict=True))
    beyond = tuple(max(0, r - size - 2 * p) for r, size, p in zip(reached, shape[1:], padding, strict=True))
    return Windows({"kernel_shape": [*kernel], "strides": [*stride], "pads": [*padding, *padding]}, beyond)


def pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return the numbers of rows and columns."""
    return (value, value) if isinstance(value, int) else tuple(value)


OTHERS: dict[type[Neuron], Callable[..., tuple[str, str | None]]] = {
    ReLU: relu_step,
    QCFS: qcfs_step,
    FoldedNeuron: folded_step,
    SpikingMaxPool: max_pool_step,
    SpikingReadout: readout_step,
}
