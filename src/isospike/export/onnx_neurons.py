"""Neurons as ONNX nodes: one step each, from a current and potentials to what they put out and the potentials after.

The equations are those of ``isospike.ops.reference``, whose bits tests ask for.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from isospike.export.onnx_graph import Graph
from isospike.export.outgoing import Shape
from isospike.layers import (
    BiasOnce,
    Changes,
    DelayedReadout,
    Differential,
    DifferentialReadout,
    FoldedNeuron,
    SpikingMaxPool,
    SpikingReadout,
    is_exactly,
)
from isospike.neurons import QCFS, Neuron, ReLU, SpikingNeuron, is_recurrence
from isospike.ops import FireRule, IntegerRule, SignedRule

State = tuple[str, ...]
"""Potentials, a tensor for each that a neuron has; none before the first step: all are at rest."""

Now = Callable[[], str]
"""Gives the number of this step as a tensor, from 1."""

Step = Callable[[str, State, Now], tuple[str, State]]


class Stepper(NamedTuple):
    """How neurons are written.

    Args:
        step: One step.
        potentials: Names of the tensors that they keep; the empty one is all of their state.
    """

    step: Step
    potentials: tuple[str, ...] = ("",)


def stepper_of(g: Graph, neuron: Neuron, shape: Shape) -> Stepper | None:
    """One step of ``neuron`` on maps ``[B, *shape]``; None where there are no nodes for it."""
    if is_recurrence(neuron):
        decay, gain = map(float, neuron.coefficients())
        rule = neuron.rule
        if isinstance(rule, FireRule):
            return Stepper(partial(fire_step, g, rule, decay, gain, len(shape)))
        if isinstance(rule, IntegerRule):
            return Stepper(partial(integer_step, g, rule, decay, gain))
        return Stepper(partial(signed_step, g, rule, decay, gain), ("left", "told"))
    for kind, (step, *potentials) in OTHERS.items():
        if is_exactly(neuron, kind):
            return Stepper(partial(step, g, neuron, shape), tuple(potentials))
    return None


def fire_step(
    g: Graph, rule: FireRule, decay: float, gain: float, dims: int, x: str, v: State, now: Now
) -> tuple[str, State]:
    """A step at one threshold, or at several with a potential each ``[levels, B, ...]``."""
    h = charge(g, decay, gain, x, v)
    levels = np.array([rule.v_threshold, *rule.higher])
    threshold = g.constant(levels.reshape(-1, *[1] * (dims + 1)) if rule.higher else levels[0])
    fired, s = fires(g, h, threshold, strict=rule.strict)
    if rule.reset == "subtract":
        after = g.add("Sub", h, g.add("Mul", s, threshold))
    else:
        after = g.add("Where", fired, g.number(rule.v_reset), h)
    return (g.add("ReduceSum", s, g.integers([0]), keepdims=0) if rule.higher else s), (after,)


def integer_step(
    g: Graph, rule: IntegerRule, decay: float, gain: float, x: str, v: State, now: Now
) -> tuple[str, State]:
    """The nearest integer, half to even, as ONNX's ``Round`` has it too."""
    h = charge(g, decay, gain, x, v)
    threshold = g.number(rule.v_threshold)
    clipped = g.add("Clip", g.add("Div", h, threshold), g.number(0), g.number(rule.levels))
    s = g.add("Round", clipped)
    return s, (g.add("Sub", h, g.add("Mul", s, threshold)),)


def signed_step(g: Graph, rule: SignedRule, decay: float, gain: float, x: str, v: State, now: Now) -> tuple[str, State]:
    """The same, and down to minus what was sent so far: what is told less what is left of it."""
    left, told = (charge(g, decay, gain, x, before) for before in (v[:1], v[1:]))
    threshold, most = g.number(rule.v_threshold), g.number(rule.levels)
    sent = g.add("Round", g.add("Div", g.add("Sub", told, left), threshold))
    least = g.add("Neg", g.add("Clip", sent, g.number(0), most))
    s = g.add("Round", g.add("Min", g.add("Max", g.add("Div", left, threshold), least), most))
    return s, (g.add("Sub", left, g.add("Mul", s, threshold)), told)


def charge(g: Graph, decay: float, gain: float, x: str, v: State) -> str:
    """``decay * v + gain * x``."""
    x = x if gain == 1 else g.add("Mul", g.number(gain), x)
    if not v:
        return x
    return g.add("Add", v[0] if decay == 1 else g.add("Mul", g.number(decay), v[0]), x)


def fires(g: Graph, h: str, threshold: str, *, strict: bool) -> tuple[str, str]:
    """Return whether potentials reach a threshold, as truths and as numbers."""
    fired = g.add("Greater" if strict else "GreaterOrEqual", h, threshold)
    return fired, g.real(fired)


def folded_step(g: Graph, neuron: FoldedNeuron, shape: Shape, x: str, v: State, now: Now) -> tuple[str, State]:
    """A norm in it: every channel has a threshold, which may be below."""
    assert isinstance(neuron.neuron, SpikingNeuron), "a norm folds into no other"
    decay, gain = map(float, neuron.neuron.coefficients())
    slope, current = neuron.slope.numpy(), neuron.current.numpy()
    threshold = g.constant(neuron.rule.v_threshold / slope)
    h = charge(g, decay, gain, g.add("Add", x, g.constant(current)), v)
    above = g.add("Mul", g.constant(np.sign(slope)), g.add("Sub", h, threshold))
    fired, s = fires(g, above, g.number(0), strict=neuron.rule.strict)
    if neuron.rule.reset == "subtract":
        return s, (g.add("Sub", h, g.add("Mul", s, threshold)),)
    return s, (g.add("Where", fired, g.constant(neuron.rule.v_reset / slope), h),)


def relu_step(g: Graph, neuron: ReLU, shape: Shape, x: str, v: State, now: Now) -> tuple[str, State]:
    """No memory."""
    return g.add("Relu", x), ()


def qcfs_step(g: Graph, neuron: QCFS, shape: Shape, x: str, v: State, now: Now) -> tuple[str, State]:
    """No memory; the sums of its straight-through floor are kept, as they round."""
    threshold, L = g.number(float(neuron.threshold)), g.number(neuron.L)
    share = g.add("Clip", g.add("Div", x, threshold), g.number(0), g.number(1))
    steps = g.add("Floor", g.add("Add", g.add("Mul", share, L), g.number(0.5)))
    rounded = g.add("Div", steps, L)
    return g.add("Mul", g.add("Add", share, g.add("Sub", rounded, share)), threshold), ()


def max_pool_step(g: Graph, pool: SpikingMaxPool, shape: Shape, x: str, v: State, now: Now) -> tuple[str, State]:
    """Return what the largest sum of a window has grown by."""
    sums = charge(g, 1, 1, x, v)
    largest = max_pool(g, pool, shape, sums)
    return (g.add("Sub", largest, max_pool(g, pool, shape, v[0])) if v else largest), (sums,)


def readout_step(g: Graph, readout: SpikingReadout, shape: Shape, x: str, v: State, now: Now) -> tuple[str, State]:
    """Spikes, and what the softmax of the potentials has grown by."""
    h = g.add("Add", v[0] if v else g.number(readout.start), x)
    _, s = fires(g, h, g.number(1), strict=False)
    after = g.add("Sub", h, s)
    before = g.add("Softmax", v[0], axis=-1) if v else g.number(1 / shape[-1])
    return g.add("Sub", g.add("Add", s, g.add("Softmax", after, axis=-1)), before), (after,)


def differential_step(g: Graph, neuron: Differential, shape: Shape, x: str, v: State, now: Now) -> tuple[str, State]:
    """What a rectifier has to say since it was told: a change at step t is worth 1/t of it."""
    told = charge(g, 1, 1, g.add("Div", x, now()), v[:1])
    target = g.add("Relu", told)
    missing = g.add("Sub", target, v[1]) if v else target
    levels = g.number(-neuron.levels), g.number(neuron.levels)
    change = g.add("Round", g.add("Clip", g.add("Mul", now(), missing), *levels))
    return change, (told, charge(g, 1, 1, g.add("Div", change, now()), v[1:]))


def changes_step(g: Graph, neuron: Changes, shape: Shape, x: str, v: State, now: Now) -> tuple[str, State]:
    """What moves the mean of the steps before."""
    change = g.add("Sub", x, v[0]) if v else x
    return change, (charge(g, 1, 1, g.add("Div", change, now()), v),)


def bias_step(g: Graph, neuron: BiasOnce, shape: Shape, x: str, v: State, now: Now) -> tuple[str, State]:
    """A bias at the first step; which step it is, is all that it must know."""
    bias = g.constant(neuron.bias.view(-1, *[1] * (len(shape) - 1)).numpy())
    zero = g.number(0, like=(1,))
    return g.add("Add", x, g.add("Where", g.add("Equal", now(), g.number(1)), bias, zero)), ()


def changed_readout_step(
    g: Graph, readout: DifferentialReadout, shape: Shape, x: str, v: State, now: Now
) -> tuple[str, State]:
    """Logits that are told as changes."""
    return charge(g, 1, 1, x, v), (charge(g, 1, 1, g.add("Div", x, now()), v),)


def delayed_readout_step(
    g: Graph, readout: DelayedReadout, shape: Shape, x: str, v: State, now: Now
) -> tuple[str, State]:
    """What brings the mean of all steps to that of the steps behind the delay."""
    one, late = g.number(1), g.add("Sub", now(), g.number(readout.delay))
    total = g.add("Where", g.add("Equal", late, one), x, charge(g, 1, 1, x, v[:1]))
    mean = g.add("Div", total, g.add("Where", g.add("Greater", late, g.number(0)), late, now()))
    sum_of_means = g.add("Mul", now(), mean)
    if v:
        sum_of_means = g.add("Sub", sum_of_means, g.add("Mul", g.add("Sub", now(), one), v[1]))
    return sum_of_means, (total, mean)


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


OTHERS: dict[type[Neuron], tuple[Any, ...]] = {  # their step, and the names of their potentials
    ReLU: (relu_step,),
    QCFS: (qcfs_step,),
    FoldedNeuron: (folded_step, ""),
    SpikingMaxPool: (max_pool_step, ""),
    SpikingReadout: (readout_step, ""),
    Differential: (differential_step, "told", "sent"),
    Changes: (changes_step, "mean"),
    BiasOnce: (bias_step,),
    DifferentialReadout: (changed_readout_step, "known"),
    DelayedReadout: (delayed_readout_step, "total", "mean"),
}
