"""Spikes at one bit each, 8 to a byte in the order of memory, the first in its lowest bit."""

import triton
import triton.language as tl


@triton.jit
def store_bits(bits, i, inside, step, values, LENGTH: tl.constexpr, SIZE: tl.constexpr):
    """Blocks of ``SIZE`` values, ``step`` apart, each of them 0 or not; nothing where there is no tensor.

    ``i`` runs in whole groups of 8 along the last axis, each of them inside or outside; ``step`` is a multiple of 8.
    """
    if bits is not None:
        place = tl.min(tl.reshape(i, (SIZE // 8, 8)), 1) // 8
        whole = tl.min(tl.reshape(inside.to(tl.int32), (SIZE // 8, 8)), 1) != 0
        shift = tl.arange(0, 8)[None, :]
        for n in tl.static_range(LENGTH):
            fired = tl.reshape((values[n] != 0).to(tl.int32), (SIZE // 8, 8))
            tl.store(bits + place, tl.sum(fired << shift, 1).to(tl.uint8), mask=whole)
            place += step // 8


@triton.jit
def unpack_kernel(bits, x, N, BLOCK: tl.constexpr):
    """``x [N]``, 0 or 1 in its own dtype."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < N
    byte = tl.load(bits + i // 8, mask=inside, other=0).to(tl.int32)
    # By way of float32: in the interpreter an integer in bfloat16 would be the bits of that integer.
    spikes = ((byte >> (i % 8).to(tl.int32)) & 1).to(tl.float32)
    tl.store(x + i, spikes.to(x.dtype.element_ty), mask=inside)
