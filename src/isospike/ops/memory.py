"""How a current lies in memory, so that a kernel can walk through it as ``[T, N]``, and memory for what it writes.

PyTorch asks for memory that starts at a multiple of 64 bytes, and glibc 2.36 finds no such block in the hole that one
of the same size has left: a process that keeps freed memory then holds twice what is alive. NumPy asks for plain
memory, which fits (docs/performance.md).
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from isospike.ops.rule import Rule

LARGE = 2**18  # elements; small holes are found anyhow
LINE = 16  # elements of a line of the cache
LINE_BYTES = 4 * LINE
WORD = 8  # bytes that a kernel may read behind the last bits of a map
CPU = torch.device("cpu")


class Arena:
    """Memory for the maps of one pass, kept for the next one over inputs of the same shape."""

    def __init__(self) -> None:
        self.blocks: list[Tensor] = []
        self._free: list[Tensor] = []

    @property
    def size(self) -> int:
        """Bytes of all blocks."""
        return sum(len(block) for block in self.blocks)

    def take(self, shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return a tensor in the smallest free block that it fits, of equal ones the last let go; or in a new one."""
        size = prod(shape) * dtype.itemsize + WORD
        fitting = [place for place, block in enumerate(self._free) if len(block) >= size]
        if fitting:
            block = self._free.pop(min(fitting, key=lambda place: (len(self._free[place]), -place)))
        else:
            block = torch.empty(-(-size // LINE_BYTES) * LINE_BYTES, dtype=torch.uint8)
            self.blocks.append(block)
        return block.view(dtype).as_strided(shape, strides)

    def keep(self, tensors: Sequence[Tensor]) -> None:
        """Free all blocks but those in which these lie."""
        kept = {tensor.untyped_storage().data_ptr() for tensor in tensors} | {b.data_ptr() for b in self._free}
        self._free += [block for block in self.blocks if block.data_ptr() not in kept]


class _Current(threading.local):
    arena: Arena | None = None


_current = _Current()


@contextmanager
def memory_from(arena: Arena) -> Iterator[None]:
    """Let this thread take the memory of what kernels write on the CPU from an arena."""
    before, _current.arena = _current.arena, arena
    try:
        yield
    finally:
        _current.arena = before


def has_memory(x: Tensor) -> bool:
    """Whether ``x`` has memory of its own that a kernel can be handed: no subclass (fake, sharded), vmap or tracing."""
    plain = type(x) is Tensor or type(x) is nn.Parameter
    return plain and not torch.compiler.is_compiling() and not torch._C._functorch.is_functorch_wrapped_tensor(x)


def empty_strided(
    shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device = CPU
) -> Tensor:
    """An uninitialised tensor without gaps between its elements."""
    if _current.arena is not None and device == CPU:
        return _current.arena.take(shape, strides, dtype)
    if device != CPU or dtype != torch.float32 or prod(shape) < LARGE:
        return torch.empty_strided(shape, strides, dtype=dtype, device=device)
    return torch.from_numpy(_plain_memory(prod(shape))).as_strided(shape, strides)


def _plain_memory(size: int) -> np.ndarray:
    """Floats that start with a line of the cache: vectors that straddle two cost twice."""
    memory = np.empty(size + LINE, np.float32)
    start = -memory.ctypes.data // memory.itemsize % LINE
    return memory[start : start + size]


def empty_like(x: Tensor) -> Tensor:
    """An uninitialised tensor of the shape, dtype and memory order of ``x``, which has no gaps."""
    return empty_strided(x.shape, x.stride(), x.dtype, x.device)


def empty_channels_last(N: int, C: int, H: int, W: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An uninitialised map ``[N, C, H, W]`` in the memory of the CPU, the channels of a pixel side by side."""
    return empty_strided((N, C, H, W), (C * H * W, 1, C * W, C), dtype)


def empty_row(size: int, dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor ``[size]`` in the memory of the CPU."""
    return empty_strided((size,), (1,), dtype)


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of every pixel of ``x [N, C, H, W]`` lie side by side, and nothing between the pixels."""
    return x.is_contiguous(memory_format=torch.channels_last)


def has_channels_last(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """The same of shape and strides: whether memory of ``[N, C, H, W]`` is in the order N, H, W, C, without gaps."""
    _, C, H, W = shape
    wanted = (H * W * C, 1, W * C, C)
    return all(size == 1 or a == b for size, a, b in zip(shape, stride, wanted, strict=True))


def is_place(onto: Tensor, shape: Sequence[int]) -> bool:
    """Whether a kernel can add a map of this shape to ``onto``, which is channels-last then."""
    return tuple(onto.shape) == tuple(shape) and is_channels_last(onto)


def is_dense(x: Tensor) -> bool:
    """Whether there are no gaps between the elements of ``x``, in the order of its shape or channels last."""
    return x.is_contiguous() or (x.dim() == 4 and is_channels_last(x))


def has_no_gaps(x: Tensor) -> bool:
    """Whether the elements of ``x`` fill a piece of memory, in whatever order."""
    return x.numel() == 0 or x.numel() == 1 + sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))


def channels_last(x: Tensor) -> Tensor:
    """``x [T, B, C, H, W]`` with its channels innermost and nothing between them."""
    rows = x.permute(0, 1, 3, 4, 2)
    return x if rows.is_contiguous() else rows.contiguous().permute(0, 1, 4, 2, 3)


def sum_of_steps(x: Tensor) -> Tensor:
    """``x [T, B, C, H, W]``, its channels innermost, summed to ``[1, B, C, H, W]`` in the same order of memory."""
    return x.permute(0, 1, 3, 4, 2).sum(0, keepdim=True).permute(0, 1, 4, 2, 3)


def in_steps(x: Tensor) -> Tensor:
    """``x [T, B, ...]`` with every step in one piece, one behind the other, or all of them the same piece."""
    step, dense = x[0], is_dense(x[0])
    if dense and (x.shape[0] == 1 or x.stride(0) in (0, step.numel())):
        return x
    return laid_out(x, like_steps(x)) if dense else x.contiguous()


def like_steps(x: Tensor) -> Tensor:
    """An empty tensor of the shape of ``x``, its steps laid out as the first one and one behind the other."""
    return empty_strided(x.shape, (x[0].numel(), *x[0].stride()), x.dtype, x.device)


def like_state(x: Tensor, rule: Rule) -> Tensor:
    """An empty float32 tensor for the potentials, every level laid out as a step of ``x``."""
    shape = rule.state_shape(x.shape[1:])
    levels = (x[0].numel(),) * (len(shape) - (x.dim() - 1))
    return empty_strided(shape, (*levels, *x[0].stride()), torch.float32, x.device)


def laid_out(x: Tensor, like: Tensor) -> Tensor:
    """``x`` in the memory order and the dtype of ``like``."""
    return x if x.stride() == like.stride() and x.dtype == like.dtype else empty_like(like).copy_(x)
