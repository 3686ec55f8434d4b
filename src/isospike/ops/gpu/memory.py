"""How a current lies in memory, so that a kernel can walk through it as ``[T, N]``."""

import torch
from torch import Tensor

from isospike.ops.rule import Rule


def in_steps(x: Tensor) -> Tensor:
    """``x [T, B, ...]`` with every step in one piece, one behind the other, or all of them the same piece."""
    step = x[0]
    dense = step.is_contiguous() or (step.dim() == 4 and step.is_contiguous(memory_format=torch.channels_last))
    if dense and (x.shape[0] == 1 or x.stride(0) in (0, step.numel())):
        return x
    return laid_out(x, like_steps(x)) if dense else x.contiguous()


def like_steps(x: Tensor) -> Tensor:
    """An empty tensor of the shape of ``x``, its steps laid out as the first one and one behind the other."""
    return x.new_empty_strided(x.shape, (x[0].numel(), *x[0].stride()))


def like_state(x: Tensor, rule: Rule) -> Tensor:
    """An empty float32 tensor for the potentials, every level laid out as a step of ``x``."""
    shape = rule.state_shape(x.shape[1:])
    levels = (x[0].numel(),) * (len(shape) - (x.dim() - 1))
    return x.new_empty_strided(shape, (*levels, *x[0].stride()), dtype=torch.float32)


def laid_out(x: Tensor, target: Tensor) -> Tensor:
    """``x`` in the memory order and the dtype of ``target``."""
    return x if x.stride() == target.stride() and x.dtype == target.dtype else target.copy_(x)
