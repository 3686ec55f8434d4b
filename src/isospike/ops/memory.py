"""How a current lies in memory, so that a kernel can walk through it as ``[T, N]``, and memory for what it writes.

PyTorch asks for memory that starts at a multiple of 64 bytes, and glibc 2.36 finds no such block in the hole that one
of the same size has left: a process that keeps freed memory then holds twice what is alive. NumPy asks for plain
memory, which fits (docs/performance.md).
"""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from isospike.ops.rule import Rule

LARGE = 2**18  # elements; small holes are found anyhow
LINE = 16  # elements of a line of the cache
CPU = torch.device("cpu")


def has_memory(x: Tensor) -> bool:
    """Whether ``x`` has memory of its own that a kernel can be handed: no subclass (fake, sharded), vmap or tracing."""
    plain = type(x) is Tensor or type(x) is nn.Parameter
    return plain and not torch.compiler.is_compiling() and not torch._C._functorch.is_functorch_wrapped_tensor(x)


def empty_strided(
    shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device = CPU
) -> Tensor:
    """An uninitialised tensor without gaps between its elements."""
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


def empty_channels_last(N: int, C: int, H: int, W: int) -> Tensor:
    """An uninitialised float32 map ``[N, C, H, W]`` in the memory of the CPU, the channels of a pixel side by side."""
    return empty_strided((N, C, H, W), (C * H * W, 1, C * W, C))


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of every pixel of ``x [N, C, H, W]`` lie side by side, and nothing between the pixels."""
    return x.is_contiguous(memory_format=torch.channels_last)


def is_place(onto: Tensor, shape: Sequence[int]) -> bool:
    """Whether a kernel can add a map of this shape to ``onto``, which is channels-last then."""
    return tuple(onto.shape) == tuple(shape) and is_channels_last(onto)


def is_dense(x: Tensor) -> bool:
    """Whether there are no gaps between the elements of ``x``, in the order of its shape or channels last."""
    return x.is_contiguous() or (x.dim() == 4 and is_channels_last(x))


def channels_last(x: Tensor) -> Tensor:
    """``x [T, B, C, H, W]`` with its channels innermost and nothing between them."""
    rows = x.permute(0, 1, 3, 4, 2)
    return x if rows.is_contiguous() else rows.contiguous().permute(0, 1, 4, 2, 3)


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
