"""Masks: two bits per neuron and step, all that the backward needs of a current where the surrogate is a rectangle and
no gradient goes through the reset.

They are whether the window of the surrogate was open and whether the neuron fired, and lie side by side in one integer
per neuron, those of step t at the bits 2t and 2t + 1. There is one level.
"""

import triton
import triton.language as tl

from isospike.ops.gpu.kernels.rule import after, rectangle, spike


@triton.jit
def masks_of(
    currents, v, decay, gain, T: tl.constexpr, THRESHOLDS: tl.constexpr, V_RESET: tl.constexpr, SUBTRACT: tl.constexpr,
    STRICT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The masks of a block of neurons whose potentials before the first step are ``v``, int64."""
    masks = tl.zeros(currents[0].shape, tl.int64)
    for t in tl.static_range(T):
        h = decay * v + gain * currents[t]
        fired = spike(h, THRESHOLDS[0], STRICT, 0)
        opened = rectangle(h - THRESHOLDS[0], WIDTH) > 0
        v = after(h, fired, THRESHOLDS[0], V_RESET, SUBTRACT)
        masks |= (opened.to(tl.int64) << (2 * t)) | (fired.to(tl.int64) << (2 * t + 1))
    return masks


@triton.jit
def masked_backward(
    masks, d_counts, d_v, decay, gain, T: tl.constexpr, SUBTRACT: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """Gradients of the currents and of the first potentials, the bits of those that ``fire_backward`` gives."""
    d_currents = ()
    for t in tl.static_range(T - 1, -1, -1):
        dh = d_counts[t] * tl.where(((masks >> (2 * t)) & 1) != 0, 1.0 / WIDTH, 0.0)
        if SUBTRACT:
            dh += d_v
        else:
            dh += d_v * tl.where(((masks >> (2 * t + 1)) & 1) != 0, 0.0, 1.0)
        d_v = decay * dh
        d_currents = (gain * dh,) + d_currents
    return d_currents, d_v
