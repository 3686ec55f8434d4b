"""The recurrence of ``isospike.ops.leaky_fire`` over a block of neurons of any shape, all of it in registers.

Values over time are tuples with one block per step, potentials are tuples with one block per level. Time is unrolled.
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
def load_tuple(pointer, i, inside, step, LENGTH: tl.constexpr):
    """Blocks ``step`` elements apart, each as ``load`` gives it; ``i`` is int64, so that no offset overflows."""
    values = ()
    for _ in tl.static_range(LENGTH):
        values = values + (load(pointer, i, inside),)
        i += step
    return values


@triton.jit
def store_tuple(pointer, i, inside, step, values, LENGTH: tl.constexpr):
    """The other way, in the dtype of the tensor; nothing where there is none."""
    if pointer is not None:
        for n in tl.static_range(LENGTH):
            tl.store(pointer + i, values[n].to(pointer.dtype.element_ty), mask=inside)
            i += step


@triton.jit
def fire(
    currents, state, decay, gain, T: tl.constexpr, THRESHOLDS: tl.constexpr, LEVELS: tl.constexpr,
    V_RESET: tl.constexpr, SUBTRACT: tl.constexpr, STRICT: tl.constexpr, INTEGER: tl.constexpr,
):  # fmt: skip
    """Compute the spikes of every step, and the potentials after the last."""
    counts = ()
    for t in tl.static_range(T):
        count, following = tl.zeros_like(currents[t]), ()
        for k in tl.static_range(LEVELS):
            h = decay * state[k] + gain * currents[t]
            fired = spike(h, THRESHOLDS[k], STRICT, INTEGER)
            following = following + (after(h, fired, THRESHOLDS[k], V_RESET, SUBTRACT),)
            count += fired
        counts = counts + (count,)
        state = following
    return counts, state


@triton.jit
def fire_backward(
    currents, state, d_counts, d_state, decay, gain, T: tl.constexpr, THRESHOLDS: tl.constexpr, LEVELS: tl.constexpr,
    V_RESET: tl.constexpr, SUBTRACT: tl.constexpr, STRICT: tl.constexpr, INTEGER: tl.constexpr, DETACH: tl.constexpr,
    SURROGATE: tl.constexpr, PARAMETER: tl.constexpr,
):  # fmt: skip
    """Gradients of the currents, of the first potentials, and every neuron's share of those of decay and gain.

    The potentials are computed anew from the currents: nothing else of the forward pass is needed.
    """
    before, charged = (), ()  # of step t and level k at t * LEVELS + k
    for t in tl.static_range(T):
        following = ()
        for k in tl.static_range(LEVELS):
            h = decay * state[k] + gain * currents[t]
            fired = spike(h, THRESHOLDS[k], STRICT, INTEGER)
            following = following + (after(h, fired, THRESHOLDS[k], V_RESET, SUBTRACT),)
            before, charged = before + (state[k],), charged + (h,)
        state = following

    d_currents, d_decay, d_gain = (), tl.zeros_like(currents[0]), tl.zeros_like(currents[0])
    for t in tl.static_range(T - 1, -1, -1):
        total, following = tl.zeros_like(currents[t]), ()
        for k in tl.static_range(LEVELS):
            h = charged[t * LEVELS + k]
            fired = spike(h, THRESHOLDS[k], STRICT, INTEGER)
            window = slope(h, THRESHOLDS[k], INTEGER, SURROGATE, PARAMETER)
            stays = kept(h, fired, window, THRESHOLDS[k], V_RESET, SUBTRACT, DETACH)
            dh = d_counts[t] * window + d_state[k] * stays
            following = following + (decay * dh,)
            d_decay += dh * before[t * LEVELS + k]
            total += dh
        d_state = following
        d_gain += total * currents[t]
        d_currents = (gain * total,) + d_currents
    return d_currents, d_state, d_decay, d_gain


@triton.jit
def store_share(shares, program, d_decay, d_gain):
    """Write what this program adds to the gradients of decay and gain, where ``shares [programs, 2]`` is wanted."""
    if shares is not None:
        tl.store(shares + 2 * program, tl.sum(tl.ravel(d_decay), 0))
        tl.store(shares + 2 * program + 1, tl.sum(tl.ravel(d_gain), 0))
