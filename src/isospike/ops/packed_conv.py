"""A convolution that keeps its input for the backward pass in as few bits as it needs."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isospike.ops import backend, cpu
from isospike.ops.memory import empty_strided


def packs(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether ``packed_conv`` can run ``conv`` on ``x``, and a backend that may is asked for."""
    return (
        backend.allows("cpu")
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and x.dtype == conv.weight.dtype == torch.float32
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and cpu.no_library() is None
        and cpu.wrong_place(x) is None
    )


def packed_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """``conv(x)`` with its gradients, for ``x [N, C, H, W]``; ``packs`` has said that it can.

    For the backward pass x is kept at one bit per element where it holds only 0 and 1, at one byte where it holds
    integers up to 255, and as it is otherwise. A second derivative is refused.
    """
    return _PackedConv.apply(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)


class _PackedConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> Tensor:
        ctx.options, ctx.biased = (stride, padding, dilation, groups), bias is not None
        ctx.layout = x.shape, x.stride()
        ctx.save_for_backward(pack(x) if ctx.needs_input_grad[1] else None, weight)
        return F.conv2d(x, weight, bias, *ctx.options)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise cpu.no_second_derivative("convolution")
        packed, weight = ctx.saved_tensors
        shape, strides = ctx.layout
        # Without a gradient of the weights nothing was kept, and the values of x do not matter.
        x = torch.empty_strided(shape, strides) if packed is None else unpack(packed, shape, strides)
        stride, padding, dilation, groups = ctx.options
        needed = [*ctx.needs_input_grad[:2], ctx.biased and ctx.needs_input_grad[2]]
        sizes = [weight.shape[0]] if ctx.biased else None
        dx, d_weight, d_bias = torch.ops.aten.convolution_backward(
            grads[0], x, weight, sizes, stride, padding, dilation, False, [0, 0], groups, needed
        )
        return dx, d_weight, d_bias, None, None, None, None


def pack(x: Tensor) -> Tensor:
    """``x`` in int32 words of bits or in bytes where its values allow, else ``x`` itself; ``x`` is dense in memory."""
    if not _dense(x):
        return x
    lib, threads = cpu.compiled(), torch.get_num_threads()
    words = torch.empty(lib.isospike_words(x.numel()), dtype=torch.int32)
    if lib.isospike_pack_bits(x.numel(), x.data_ptr(), words.data_ptr(), threads):
        return words
    whole = torch.empty(x.numel(), dtype=torch.uint8)
    if lib.isospike_pack_bytes(x.numel(), x.data_ptr(), whole.data_ptr(), threads):
        return whole
    return x


def unpack(packed: Tensor, shape: torch.Size, strides: tuple[int, ...]) -> Tensor:
    """What ``pack`` was given."""
    if packed.dtype == torch.float32:
        return packed
    x = empty_strided(shape, strides)
    if packed.dtype == torch.uint8:
        x.as_strided((x.numel(),), (1,)).copy_(packed)
    else:
        cpu.compiled().isospike_unpack_bits(x.numel(), packed.data_ptr(), x.data_ptr(), torch.get_num_threads())
    return x


def _dense(x: Tensor) -> bool:
    return x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
