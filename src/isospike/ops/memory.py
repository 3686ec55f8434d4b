"""Memory for what the compiled library writes.

PyTorch asks for memory that starts at a multiple of 64 bytes, and glibc 2.36 finds no such block in the hole that one
of the same size has left: a process that keeps freed memory then holds twice what is alive. NumPy asks for plain
memory, which fits (docs/performance.md).
"""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

LARGE = 2**18  # elements; small holes are found anyhow


def empty_strided(shape: Sequence[int], strides: Sequence[int]) -> Tensor:
    """An uninitialised float32 tensor without gaps between its elements."""
    if prod(shape) < LARGE:
        return torch.empty_strided(shape, strides)
    return torch.from_numpy(np.empty(prod(shape), np.float32)).as_strided(shape, strides)


def empty_like(x: Tensor) -> Tensor:
    """An uninitialised float32 tensor of the shape and the memory order of ``x``, which has no gaps."""
    return empty_strided(x.shape, x.stride())
