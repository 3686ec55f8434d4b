"""``isospike.ops.leaky_fire`` as one pair of kernels, forward and backward.

Memory is ``[T, N]``: N neurons in any one order, ``x_step`` elements from one step of the current to the next (0 where
it stays the same); potentials are ``[LEVELS, N]`` in float32, and ``THRESHOLDS`` has one entry per level. A pointer
that is None stands for zeros on the way in, and for nothing to write on the way out.
"""

import triton
import triton.language as tl

from isospike.ops.gpu.kernels.bits import store_bits
from isospike.ops.gpu.kernels.masks import masked_backward, masks_of
from isospike.ops.gpu.kernels.recurrence import coefficient, fire, fire_backward, load_tuple, store_share, store_tuple


@triton.jit
def forward_kernel(
    x, v, s, end, bits, masks, decay, gain, N, x_step, LEARNED_DECAY: tl.constexpr, LEARNED_GAIN: tl.constexpr,
    T: tl.constexpr, THRESHOLDS: tl.constexpr, LEVELS: tl.constexpr, V_RESET: tl.constexpr, SUBTRACT: tl.constexpr,
    STRICT: tl.constexpr, INTEGER: tl.constexpr, PARAMETER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Spikes ``s [T, N]`` and the potentials ``end`` behind the last step.

    Besides, where they are wanted, ``bits`` of the spikes and ``masks``, of a rectangle that is ``PARAMETER`` wide.
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < N
    currents = load_tuple(x, i, inside, x_step, T)
    state = load_tuple(v, i, inside, N, LEVELS)
    decay, gain = coefficient(decay, LEARNED_DECAY), coefficient(gain, LEARNED_GAIN)
    if masks is not None:
        opened = masks_of(currents, state[0], decay, gain, T, THRESHOLDS, V_RESET, SUBTRACT, STRICT, PARAMETER)
        tl.store(masks + i, opened.to(masks.dtype.element_ty), mask=inside)
    counts, state = fire(
        currents, state, decay, gain, T, THRESHOLDS, LEVELS, V_RESET, SUBTRACT, STRICT, INTEGER
    )  # fmt: skip
    store_tuple(s, i, inside, N, counts, T)
    store_bits(bits, i, inside, N, counts, T, BLOCK)
    store_tuple(end, i, inside, N, state, LEVELS)


@triton.jit
def backward_kernel(
    x, v, masks, ds, d_end, dx, dv, shares, decay, gain, N, x_step,
    LEARNED_DECAY: tl.constexpr, LEARNED_GAIN: tl.constexpr,
    T: tl.constexpr, THRESHOLDS: tl.constexpr, LEVELS: tl.constexpr, V_RESET: tl.constexpr, SUBTRACT: tl.constexpr,
    STRICT: tl.constexpr, INTEGER: tl.constexpr, DETACH: tl.constexpr, SURROGATE: tl.constexpr,
    PARAMETER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients ``dx [T, N]``, ``dv [LEVELS, N]`` and ``shares [programs, 2]`` of the coefficients.

    Where there are ``masks``, neither x nor v is read, and nothing goes to the coefficients.
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < N
    d_counts, d_state = load_tuple(ds, i, inside, N, T), load_tuple(d_end, i, inside, N, LEVELS)
    decay, gain = coefficient(decay, LEARNED_DECAY), coefficient(gain, LEARNED_GAIN)
    if masks is not None:
        opened = tl.load(masks + i, mask=inside, other=0).to(tl.int64)
        d_currents, d_v = masked_backward(opened, d_counts, d_state[0], decay, gain, T, SUBTRACT, PARAMETER)
        d_state = (d_v,)
    else:
        currents, state = load_tuple(x, i, inside, x_step, T), load_tuple(v, i, inside, N, LEVELS)
        d_currents, d_state, d_decay, d_gain = fire_backward(
            currents, state, d_counts, d_state, decay, gain, T, THRESHOLDS, LEVELS, V_RESET, SUBTRACT, STRICT, INTEGER,
            DETACH, SURROGATE, PARAMETER,
        )  # fmt: skip
        store_share(shares, tl.program_id(0), d_decay, d_gain)
    store_tuple(dx, i, inside, N, d_currents, T)
    store_tuple(dv, i, inside, N, d_state, LEVELS)
