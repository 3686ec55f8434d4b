"""``isospike.ops.norm_fire``: batch norm, sum with a skip and the recurrence, in one pass over memory.

Tensors are channels-last, ``[T, R, C]``: R pixels of C channels at every time step, N = R * C. A program works on tiles
of ``ROWS`` pixels by ``CHANNELS`` channels. Sums over pixels have two stages: every program sums up a fixed run of
tiles, and one program per tile of channels adds those partial sums in float64. No atomics: two runs have the same bits.
"""

import triton
import triton.language as tl

from isospike.ops.gpu.kernels.bits import store_bits
from isospike.ops.gpu.kernels.masks import masked_backward, masks_of
from isospike.ops.gpu.kernels.recurrence import (
    coefficient,
    fire,
    fire_backward,
    load,
    load_tuple,
    store_share,
    store_tuple,
)


@triton.jit
def of_channel(pointer, c, C):
    """One value per channel, ``[1, CHANNELS]``."""
    return tl.load(pointer + c, mask=c < C, other=0.0)[None, :].to(tl.float32)


@triton.jit
def store_partial(partial, program, c, C, first, second):
    """Sums over the rows of ``[ROWS, CHANNELS]``, into ``partial [programs, 2, C]``."""
    to = partial + program * 2 * C + c
    tl.store(to, tl.sum(first, 0), mask=c < C)
    tl.store(to + C, tl.sum(second, 0), mask=c < C)


@triton.jit
def total(partial, parts, c, C, PARTS: tl.constexpr):
    """The sum of the partial ones, in float64, ``[CHANNELS]``."""
    p = tl.arange(0, PARTS)[:, None]
    values = tl.load(partial + p * 2 * C + c[None, :], mask=(p < parts) & (c < C)[None, :], other=0.0)
    return tl.sum(values.to(tl.float64), 0)


@triton.jit
def statistics_kernel(x, partial, rows, C, run, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Sums of ``x - x[0]`` and of its square: around the first row, so that a large mean does not cancel."""
    program = tl.program_id(0)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    shift = of_channel(x, c, C)
    first = tl.zeros((ROWS, CHANNELS), tl.float32)
    second = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(0, run, ROWS):
        row = program.to(tl.int64) * run + start + tl.arange(0, ROWS)[:, None]
        inside = (row < rows) & (c < C)[None, :]
        d = tl.where(inside, load(x, row * C + c[None, :], inside) - shift, 0.0)
        first += d
        second += d * d
    store_partial(partial, program, c, C, first, second)


@triton.jit
def affine_kernel(
    x, partial, weight, bias, mean, var, rstd, stretch, a, b, rows, C, parts, eps, root_eps,
    PARTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """From the sums to mean, biased variance, and the norm as ``a * x + b``; all ``[C]``.

    ``stretch`` is 1/rstd over its root, and 1 where nothing varies: how much more the variance takes back.
    """
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    inside = c < C
    d = total(partial, parts, c, C, PARTS) / rows
    spread = total(partial + C, parts, c, C, PARTS) / rows - d * d
    spread = tl.where(spread < 0, 0.0, spread)
    middle = tl.load(x + c, mask=inside, other=0.0).to(tl.float64) + d
    root = tl.sqrt(spread + eps)
    inverse = 1.0 / (root + root_eps)
    more = 1.0 + root_eps / tl.where(root > 0, root, float("inf"))
    scale = tl.load(weight + c, mask=inside, other=0.0).to(tl.float64) * inverse
    offset = tl.load(bias + c, mask=inside, other=0.0).to(tl.float64) - middle * scale
    tl.store(mean + c, middle.to(tl.float32), mask=inside)
    tl.store(var + c, spread.to(tl.float32), mask=inside)
    tl.store(rstd + c, inverse.to(tl.float32), mask=inside)
    tl.store(stretch + c, more.to(tl.float32), mask=inside)
    tl.store(a + c, scale.to(tl.float32), mask=inside)
    tl.store(b + c, offset.to(tl.float32), mask=inside)


@triton.jit
def currents_of(x, a, b, skip, i, inside, N, skip_step, DTYPE: tl.constexpr, T: tl.constexpr):
    """``u = a * x + b + skip`` of every step, rounded once to the dtype that it is kept in."""
    values, skips, currents = load_tuple(x, i, inside, N, T), load_tuple(skip, i, inside, skip_step, T), ()
    for t in tl.static_range(T):
        currents = currents + ((a * values[t] + b + skips[t]).to(DTYPE).to(tl.float32),)
    return currents


@triton.jit
def forward_kernel(
    x, a, b, skip, added, u, s, bits, masks, decay, gain, R, C, N, skip_step, added_step, DTYPE: tl.constexpr,
    LEARNED_DECAY: tl.constexpr, LEARNED_GAIN: tl.constexpr,
    T: tl.constexpr, THRESHOLDS: tl.constexpr, LEVELS: tl.constexpr, V_RESET: tl.constexpr, SUBTRACT: tl.constexpr,
    STRICT: tl.constexpr, INTEGER: tl.constexpr, PARAMETER: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Currents ``u`` where they are wanted, and spikes with ``added`` on top, where there are neurons (``LEVELS``).

    Besides, where they are wanted, ``bits`` of the spikes and ``masks``, of a rectangle that is ``PARAMETER`` wide.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (row < R) & (c < C)[None, :]
    i = row * C + c[None, :]
    currents = currents_of(x, of_channel(a, c, C), of_channel(b, c, C), skip, i, inside, N, skip_step, DTYPE, T)
    store_tuple(u, i, inside, N, currents, T)
    if LEVELS:
        state = load_tuple(None, i, inside, N, LEVELS)
        decay, gain = coefficient(decay, LEARNED_DECAY), coefficient(gain, LEARNED_GAIN)
        counts, state = fire(
            currents, state, decay, gain, T, THRESHOLDS, LEVELS, V_RESET, SUBTRACT, STRICT, INTEGER
        )  # fmt: skip
        more, sums = load_tuple(added, i, inside, added_step, T), ()
        for t in tl.static_range(T):
            sums = sums + (counts[t] + more[t],)
        store_tuple(s, i, inside, N, sums, T)
        store_bits(bits, i, inside, N, counts, T, ROWS * CHANNELS)
        if masks is not None:
            rest = tl.zeros_like(currents[0])
            opened = masks_of(currents, rest, decay, gain, T, THRESHOLDS, V_RESET, SUBTRACT, STRICT, PARAMETER)
            tl.store(masks + i, opened.to(masks.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(
    x, a, b, mean, rstd, u, masks, du, ds, g, partial, shares, decay, gain, R, C, N, run, DTYPE: tl.constexpr,
    LEARNED_DECAY: tl.constexpr, LEARNED_GAIN: tl.constexpr,
    T: tl.constexpr, THRESHOLDS: tl.constexpr, LEVELS: tl.constexpr, V_RESET: tl.constexpr, SUBTRACT: tl.constexpr,
    STRICT: tl.constexpr, INTEGER: tl.constexpr, DETACH: tl.constexpr, SURROGATE: tl.constexpr,
    PARAMETER: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The gradient ``g`` of the current, and the sums of ``g`` and ``g * xhat`` per channel.

    ``du`` and ``ds`` are those of what the forward pass gave. Where there are no ``masks``, the current is read from
    ``u``, or computed anew from x where that is None too.
    """
    program = tl.program_id(0)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    scale, offset = of_channel(a, c, C), of_channel(b, c, C)
    middle, inverse = of_channel(mean, c, C), of_channel(rstd, c, C)
    decay, gain = coefficient(decay, LEARNED_DECAY), coefficient(gain, LEARNED_GAIN)
    first = tl.zeros((ROWS, CHANNELS), tl.float32)
    second = tl.zeros((ROWS, CHANNELS), tl.float32)
    d_decay = tl.zeros((ROWS, CHANNELS), tl.float32)
    d_gain = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(0, run, ROWS):
        row = program.to(tl.int64) * run + start + tl.arange(0, ROWS)[:, None]
        inside = (row < R) & (c < C)[None, :]
        i = row * C + c[None, :]
        d_counts = load_tuple(ds, i, inside, N, T)
        if masks is not None:
            opened = tl.load(masks + i, mask=inside, other=0).to(tl.int64)
            nothing = tl.zeros_like(d_counts[0])
            fired, state = masked_backward(opened, d_counts, nothing, decay, gain, T, SUBTRACT, PARAMETER)
        else:
            if u is not None:
                currents = load_tuple(u, i, inside, N, T)
            else:
                currents = currents_of(x, scale, offset, None, i, inside, N, 0, DTYPE, T)
            nothing = load_tuple(None, i, inside, N, LEVELS)
            fired, state, more_decay, more_gain = fire_backward(
                currents, nothing, d_counts, nothing, decay, gain,
                T, THRESHOLDS, LEVELS, V_RESET, SUBTRACT, STRICT, INTEGER, DETACH, SURROGATE, PARAMETER,
            )  # fmt: skip
            d_decay += tl.where(inside, more_decay, 0.0)
            d_gain += tl.where(inside, more_gain, 0.0)
        values, others, gradients = load_tuple(x, i, inside, N, T), load_tuple(du, i, inside, N, T), ()
        for t in tl.static_range(T):
            g_t = (fired[t] + others[t]).to(DTYPE).to(tl.float32)
            gradients = gradients + (g_t,)
            first += tl.where(inside, g_t, 0.0)
            second += tl.where(inside, g_t * (values[t] - middle) * inverse, 0.0)
        store_tuple(g, i, inside, N, gradients, T)
    store_partial(partial, program, c, C, first, second)
    store_share(shares, program * tl.num_programs(1) + tl.program_id(1), d_decay, d_gain)


@triton.jit
def sums_kernel(x, mean, rstd, g, partial, rows, C, run, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """The sums of ``backward_kernel`` where nothing fires, and ``g`` is what came in."""
    program = tl.program_id(0)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    middle, inverse = of_channel(mean, c, C), of_channel(rstd, c, C)
    first = tl.zeros((ROWS, CHANNELS), tl.float32)
    second = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(0, run, ROWS):
        row = program.to(tl.int64) * run + start + tl.arange(0, ROWS)[:, None]
        inside = (row < rows) & (c < C)[None, :]
        i = row * C + c[None, :]
        g_t = load(g, i, inside)
        first += g_t
        second += g_t * (load(x, i, inside) - middle) * inverse
    store_partial(partial, program, c, C, first, second)


@triton.jit
def parameters_kernel(partial, d_weight, d_bias, C, parts, PARTS: tl.constexpr, CHANNELS: tl.constexpr):
    """Gradients of weight and bias ``[C]``, from the partial sums."""
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    tl.store(d_bias + c, total(partial, parts, c, C, PARTS).to(tl.float32), mask=c < C)
    tl.store(d_weight + c, total(partial + C, parts, c, C, PARTS).to(tl.float32), mask=c < C)


@triton.jit
def input_kernel(
    x, g, a, mean, rstd, stretch, d_weight, d_bias, dx, rows, C, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    """``dx = a * (g - mean(g) - stretch * xhat * mean(g * xhat))``."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (row < rows) & (c < C)[None, :]
    i = row * C + c[None, :]
    xhat = (load(x, i, inside) - of_channel(mean, c, C)) * of_channel(rstd, c, C)
    tilt = of_channel(stretch, c, C) * of_channel(d_weight, c, C) / rows
    shared = of_channel(d_bias, c, C) / rows + xhat * tilt
    tl.store(dx + i, (of_channel(a, c, C) * (load(g, i, inside) - shared)).to(dx.dtype.element_ty), mask=inside)
