"""The one recurrence of all neurons, with its shapes checked.

The conventions of the whole package are written here once: potentials rest at 0; at every step a neuron charges,
fires, and then resets.
"""

from torch import Tensor

from isospike.errors import ShapeError
from isospike.ops.backend import pick
from isospike.ops.rule import Rule


def leaky_fire(
    x: Tensor, v: Tensor | None = None, *, decay: float | Tensor, gain: float | Tensor, rule: Rule
) -> tuple[Tensor, Tensor]:
    """Leak, integrate and fire over all time steps of a current.

        h[t] = decay * v[t-1] + gain * x[t];   s[t] = fire(h[t]);   v[t] = reset(h[t], s[t])

    Args:
        x: Input current ``[T, B, ...]``, T >= 1, any float dtype, in units of the potential.
        v: Potential before the first step ``[B, ...]``, of a rule with several potentials ``[levels, B, ...]``; None
            is rest, 0.
        decay: Share of the potential kept per step, in [0, 1]; a number, or a 0-d tensor that gets a gradient.
        gain: Weight of the current; likewise.
        rule: When it fires, how much, and what is left then: ``FireRule`` or ``IntegerRule``.

    Returns:
        ``(s, v)``: spikes ``[T, B, ...]`` in {0, ..., levels} of the dtype of ``x``; potential after the last step,
        of the dtype of ``v``, or float32 from rest (float64 for a float64 current). Half precision is never used for
        a potential from rest.

    Raises:
        ShapeError: T is 0, or ``v`` does not have the shape of one step of ``x``.

    Gradient:
        ds/dh is that of ``rule.fire``, such as ``surrogate.derivative(h - v_threshold)``; the path through the reset
        is included unless ``rule.detach_reset``.

    Not finite:
        A current of infinity fires and is reset as any other. One of minus infinity stays in the potential for good,
        and so does NaN, which no threshold lets fire and an integer rule puts out. Backends agree on spikes and
        potentials. A gradient through a potential that stays not finite, or is near the largest float, may be NaN on
        one of them and finite on another.

    Source: Wu et al. 2018 (STBP), arXiv:1706.02609; learnable leak: Fang et al. 2021 (PLIF), arXiv:2007.05785.
    """
    if x.dim() < 2 or x.shape[0] == 0:
        raise ShapeError(f"a current has the shape [T, B, ...] with T >= 1, got {list(x.shape)}")
    shape = rule.state_shape(x.shape[1:])
    if v is not None and v.shape != shape:
        raise ShapeError(f"the potential must have the shape of one step, {list(shape)}, got {list(v.shape)}")
    return pick(x, v, rule).run(x, v, decay=decay, gain=gain, rule=rule)
