"""The recurrence of ``isospike.ops.leaky_fire`` as one pair of kernels, forward and backward.

Memory is ``[T, N]``: N neurons in any one order, ``x_step`` elements from one step of the current to the next (0 where
it stays the same); potentials are ``[LEVELS, N]`` in float32, and ``THRESHOLDS`` has one entry per level. A program
runs a block of neurons through all time steps, which are unrolled, with everything between them in registers. A pointer
that is None stands for zeros on the way in, and for nothing to write on the way out.
"""

import triton
import triton.language as tl

from isospike.ops.gpu.kernels.rule import after, kept, slope, spike


@triton.jit
def coefficient(value, LEARNED: tl.constexpr):
    """A number, or the one behind a pointer: a learned coefficient never visits the host."""
    if LEARNED:
        return tl.load(value).to(tl.float32)
    else:
        return value


@triton.jit
def load(pointer, i, inside):
    """Values in float32; 0 outside, and everywhere where there is no tensor."""
    if pointer is None:
        return tl.zeros(i.shape, tl.float32)
    else:
        return tl.load(pointer + i, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def load_levels(pointer, i, inside, N, LEVELS: tl.constexpr):
    """A tuple of the values of every level."""
    values = ()
    for k in tl.static_range(LEVELS):
        values = values + (load(pointer, i + k * N, inside),)
    return values


@triton.jit
def forward_kernel(
    x, v, s, end, decay, gain, N, x_step, LEARNED_DECAY: tl.constexpr, LEARNED_GAIN: tl.constexpr,
    T: tl.constexpr, THRESHOLDS: tl.constexpr, LEVELS: tl.constexpr, V_RESET: tl.constexpr, SUBTRACT: tl.constexpr,
    STRICT: tl.constexpr, INTEGER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Spikes ``s [T, N]`` and the potentials ``end`` behind the last step."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < N
    decay, gain = coefficient(decay, LEARNED_DECAY), coefficient(gain, LEARNED_GAIN)
    state = load_levels(v, i, inside, N, LEVELS)
    for t in tl.static_range(T):
        x_t = load(x, i + t * x_step, inside)
        count, following = tl.zeros_like(x_t), ()
        for k in tl.static_range(LEVELS):
            h = decay * state[k] + gain * x_t
            fired = spike(h, THRESHOLDS[k], STRICT, INTEGER)
            following = following + (after(h, fired, THRESHOLDS[k], V_RESET, SUBTRACT),)
            count += fired
        state = following
        tl.store(s + i + t * N, count.to(s.dtype.element_ty), mask=inside)
    for k in tl.static_range(LEVELS):
        tl.store(end + i + k * N, state[k], mask=inside)


@triton.jit
def backward_kernel(
    x, v, ds, d_end, dx, dv, shares, decay, gain, N, x_step, LEARNED_DECAY: tl.constexpr, LEARNED_GAIN: tl.constexpr,
    T: tl.constexpr, THRESHOLDS: tl.constexpr, LEVELS: tl.constexpr, V_RESET: tl.constexpr, SUBTRACT: tl.constexpr,
    STRICT: tl.constexpr, INTEGER: tl.constexpr, DETACH: tl.constexpr, SURROGATE: tl.constexpr,
    PARAMETER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients ``dx [T, N]``, ``dv [levels, N]`` and ``shares [programs, 2]`` of the coefficients.

    The potentials are computed anew from the current: nothing else of the forward pass is kept.
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < N
    decay, gain = coefficient(decay, LEARNED_DECAY), coefficient(gain, LEARNED_GAIN)
    state = load_levels(v, i, inside, N, LEVELS)
    before, charged = (), ()  # of step t and level k at t * LEVELS + k
    for t in tl.static_range(T):
        x_t = load(x, i + t * x_step, inside)
        following = ()
        for k in tl.static_range(LEVELS):
            h = decay * state[k] + gain * x_t
            fired = spike(h, THRESHOLDS[k], STRICT, INTEGER)
            following = following + (after(h, fired, THRESHOLDS[k], V_RESET, SUBTRACT),)
            before, charged = before + (state[k],), charged + (h,)
        state = following

    d_state = load_levels(d_end, i, inside, N, LEVELS)
    d_decay = tl.zeros(i.shape, tl.float32)
    d_gain = tl.zeros(i.shape, tl.float32)
    for t in tl.static_range(T - 1, -1, -1):
        ds_t = load(ds, i + t * N, inside)
        total, following = tl.zeros_like(ds_t), ()
        for k in tl.static_range(LEVELS):
            h = charged[t * LEVELS + k]
            fired = spike(h, THRESHOLDS[k], STRICT, INTEGER)
            window = slope(h, THRESHOLDS[k], INTEGER, SURROGATE, PARAMETER)
            dh = ds_t * window + d_state[k] * kept(h, fired, window, THRESHOLDS[k], V_RESET, SUBTRACT, DETACH)
            following = following + (decay * dh,)
            d_decay += dh * before[t * LEVELS + k]
            total += dh
        d_state = following
        if shares is not None:
            d_gain += total * load(x, i + t * x_step, inside)
        tl.store(dx + i + t * N, (gain * total).to(dx.dtype.element_ty), mask=inside)
    if dv is not None:
        for k in tl.static_range(LEVELS):
            tl.store(dv + i + k * N, d_state[k], mask=inside)
    if shares is not None:
        share = shares + 2 * tl.program_id(0)
        tl.store(share, tl.sum(d_decay, 0))
        tl.store(share + 1, tl.sum(d_gain, 0))
