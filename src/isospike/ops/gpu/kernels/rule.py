"""``isospike.ops.rule`` on the device: when a neuron fires, what is left then, how steep its surrogate is.

Names in capitals are compile-time constants. Where ``INTEGER`` is not 0, a spike is the nearest integer in
{0, ..., INTEGER} to the potential in thresholds. The compiler also reads what stands behind a return: every branch that
is left out at compile time hangs on an ``else``.
"""

import triton
import triton.language as tl

# Added to a float32 of a smaller size and taken away again, it leaves the nearest integer, half to even.
ROUNDING = tl.constexpr(1.5 * 2**23)


@triton.jit
def rectangle(u, WIDTH: tl.constexpr):
    """The derivative of ``surrogates.Rectangle``."""
    return tl.where(tl.abs(u) < WIDTH / 2, 1.0 / WIDTH, 0.0)


@triton.jit
def arctan(u, ALPHA: tl.constexpr):
    """The derivative of ``surrogates.Arctan``."""
    w = (1.5707963267948966 * ALPHA) * u
    return (ALPHA / 2) / (1.0 + w * w)


@triton.jit
def sigmoid(u, ALPHA: tl.constexpr):
    """The derivative of ``surrogates.Sigmoid``."""
    s = 1.0 / (1.0 + tl.exp(-ALPHA * u))
    return ALPHA * s * (1.0 - s)


@triton.jit
def triangle(u, GAMMA: tl.constexpr):
    """The derivative of ``surrogates.Triangle``."""
    w = 1.0 - tl.abs(u) / GAMMA
    return tl.where(w < 0, 0.0, w) / GAMMA


@triton.jit
def spike(h, threshold, STRICT: tl.constexpr, INTEGER: tl.constexpr):
    """Compute the spikes, or counts of them, at the potential ``h``."""
    if INTEGER:
        u = tl.div_rn(h, tl.zeros_like(h) + threshold)
        u = tl.where(u < 0, 0.0, u)
        u = tl.where(u > INTEGER, 1.0 * INTEGER, u)
        return (u + ROUNDING) - ROUNDING
    elif STRICT:
        return tl.where(h - threshold > 0, 1.0, 0.0)
    else:
        return tl.where(h - threshold >= 0, 1.0, 0.0)


@triton.jit
def after(h, s, threshold, V_RESET: tl.constexpr, SUBTRACT: tl.constexpr):
    """The potential after the spikes ``s``."""
    if SUBTRACT:
        return h - s * threshold
    else:
        return tl.where(s != 0, V_RESET, h)


@triton.jit
def slope(h, threshold, INTEGER: tl.constexpr, SURROGATE: tl.constexpr, PARAMETER: tl.constexpr):
    """ds/dh as the backward pass takes it."""
    if INTEGER:
        u = tl.div_rn(h, tl.zeros_like(h) + threshold)
        return tl.where((u >= 0) & (u <= INTEGER), 1.0 / threshold, 0.0)
    else:
        return SURROGATE(h - threshold, PARAMETER)


@triton.jit
def kept(h, s, window, threshold, V_RESET: tl.constexpr, SUBTRACT: tl.constexpr, DETACH: tl.constexpr):
    """dv/dh through the reset, ``window`` being ds/dh."""
    if SUBTRACT:
        through = -threshold
        stays = tl.zeros_like(h) + 1.0
    else:
        through = V_RESET - tl.where(h == float("inf"), 0.0, h)
        stays = tl.where(s != 0, 0.0, 1.0)
    if DETACH:
        return stays
    else:
        return stays + window * through
